"""Quality-of-service profiles of all topics, by name instead of by repeated literals."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

COMMAND = QoSProfile(
    # A lost command is a robot that ignores people. Late joiners must not get old commands:
    # nobody wants yesterday's "drive forward".
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    # A burst comes faster than the executor takes it off. What does not fit here would be lost
    # without an answer, so there is room for the longest queue; the node's own bounded queue
    # answers what is too much.
    depth=1000,
)
"""Text commands to the robot."""

DECISION = QoSProfile(
    # Every decision counts, a STOP above all; an old one must not be carried out by a late joiner.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    # A stop can answer the longest queue with CANCELLED at once: room for that and some more.
    depth=1100,
)
"""Decisions about commands."""

BUNDLE = QoSProfile(
    # What is being served: published once, so whoever asks later gets it from the middleware.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""The bundle that a node serves."""

KNOWN_NAMES = QoSProfile(
    # What the robot knows, as its map has it: a node that starts later has to get it too.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Names of places and things; a publisher must be transient local too."""

LATENCY = QoSProfile(
    # Statistics over a window: only the newest matters, and a lost one is replaced by the next.
    # Reliable all the same, since "best effort" would not match a subscriber with the defaults.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Latency statistics."""

SENSOR = QoSProfile(
    # Best effort matches every publisher; only the newest counts, an old one is worse than none.
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Odometry and laser scans, as they are received."""

VELOCITY = QoSProfile(
    # The newest is the only one that counts. Reliable, since bases subscribe either way.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Velocity commands to the base, and all that the simulation publishes."""

EXECUTION = QoSProfile(
    # Every outcome counts.
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
)
"""Reports about calls."""

GOAL = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
"""Goal poses."""
