"""Writes what is known about images as files of other tools: COCO, Label Studio and YOLO, one module each."""
