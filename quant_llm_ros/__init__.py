"""Natural-language commands to typed robot decisions with a quantized language model.

Rooms of the package, and who may import whom: ``nodes`` → ``command`` → ``engine``;
``quantize`` → ``engine``; ``cli`` → all but ``nodes``. Only ``nodes`` imports rclpy, only
``quantize`` imports torch.
"""

__version__ = "0.1.0"
