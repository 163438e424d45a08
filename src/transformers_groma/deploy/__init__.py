"""Running the visual part outside of torch: its export to ONNX and OpenVINO, and a runtime for what was exported."""
