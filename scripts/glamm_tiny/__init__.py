"""How glamm-tiny is made: its grounding encoder, its language model, the training, and the folder to ship."""
