"""Bundle to logits: protocol, bundle, runtimes, decoding, self-test. No rclpy, no torch."""
