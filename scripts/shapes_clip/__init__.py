"""Makes, trains and measures shapes-clip, a very small dual encoder of coloured shapes and sentences about them."""
