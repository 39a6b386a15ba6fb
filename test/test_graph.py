"""Policies, RViz and Foxglove files against what the running nodes have in the graph of ROS."""

from __future__ import annotations

from collections.abc import Iterator
import fnmatch
import importlib
import json
from pathlib import Path
import re
from typing import Any
import xml.etree.ElementTree as ET

from node_harness import wait_for
import pytest
from rclpy.action.graph import (
    get_action_client_names_and_types_by_node,
    get_action_server_names_and_types_by_node,
)
from scenarios_harness import Bench, bench, REPLY_S, START_S
import yaml

NODES = ("understanding", "executor", "sim")
KINDS = {
    ("topics", "publish"): "topic",
    ("topics", "subscribe"): "topic",
    ("services", "reply"): "service",
    ("services", "request"): "service",
    ("actions", "execute"): "action",
    ("actions", "call"): "action",
}
Rules = dict[tuple[str, str], set[str]]

# What a node has only elsewhere, and why.
ELSEWHERE = {
    "navigate_to_pose": "nav2_msgs is on no package registry",
    "~/get_type_description": "not before Iron",
}


def read_policy(repository: Path, node: str) -> ET.Element:
    return ET.parse(repository / "config" / "sros2" / f"{node}.policy.xml").getroot()


def rules_of(policy: ET.Element) -> Rules:
    rules: Rules = {key: set() for key in KINDS}
    for (kind, right), names in rules.items():
        for group in policy.iterfind(f".//{kind}[@{right}]"):
            names.update(str(entry.text) for entry in group)
    return rules


@pytest.mark.parametrize("node", NODES)
def test_form(repository: Path, node: str) -> None:
    """The form that sros2's schema (policy.xsd, version 0.2.0) asks for."""
    policy = read_policy(repository, node)
    assert (policy.tag, policy.attrib) == ("policy", {"version": "0.2.0"})
    (enclaves,) = policy
    (enclave,) = enclaves
    (profiles,) = enclave
    (profile,) = profiles
    assert [e.tag for e in (enclaves, enclave, profiles, profile)] == [
        "enclaves",
        "enclave",
        "profiles",
        "profile",
    ]
    assert enclave.attrib == {"path": f"/quant_llm/{node}"}
    assert profile.attrib == {"ns": "/", "node": node}
    for group in profile:
        ((right, allowed),) = group.attrib.items()
        assert allowed == "ALLOW"
        assert {entry.tag for entry in group} == {KINDS[group.tag, right]}
        for entry in group:
            # Least privilege: no bare wildcard.
            assert entry.text
            assert entry.text.strip("~/*")


def test_only_the_executor_moves_the_robot(repository: Path) -> None:
    may = {
        node
        for node in NODES
        if "cmd_vel" in rules_of(read_policy(repository, node))["topics", "publish"]
    }
    assert may == {"executor"}


def graph_of(robot: Bench, node: str) -> Rules:
    """Give what a node has in the graph, by names as a policy writes them."""
    me, where = robot.node, robot.namespace
    found: dict[tuple[str, str], Any] = {
        ("topics", "publish"): me.get_publisher_names_and_types_by_node(node, where),
        ("topics", "subscribe"): me.get_subscriber_names_and_types_by_node(node, where),
        ("services", "reply"): me.get_service_names_and_types_by_node(node, where),
        ("services", "request"): me.get_client_names_and_types_by_node(node, where),
        ("actions", "execute"): get_action_server_names_and_types_by_node(me, node, where),
        ("actions", "call"): get_action_client_names_and_types_by_node(me, node, where),
    }
    # The bench gives each robot a clock of its own.
    return {
        key: {
            _written(name, where, node).replace(f"{where}/clock", "/clock")
            for name, _ in names
            if "/_action/" not in name
        }
        for key, names in found.items()
    }


def _written(name: str, namespace: str, node: str) -> str:
    own, relative = f"{namespace}/{node}/", f"{namespace}/"
    if name.startswith(own):
        return "~/" + name.removeprefix(own)
    if name.startswith(relative) and name != f"{namespace}/clock":
        return name.removeprefix(relative)
    return name


@pytest.fixture(scope="module")
def robot(
    scripts: Path, bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    with bench("/robot", scripts, tmp_path_factory.mktemp("robot")) as made:
        made.start(
            "understanding_node",
            f"bundle:='{bundle_path}'",
            "autostart:=true",
            "use_sim_time:=true",
        )
        made.start_robot()
        made.wait_understanding()
        # Action clients of skills come with their first call.
        number = made.decide(("dance", {"style": "tango"}))
        assert made.outcomes(number, 1) == ["UNSUPPORTED"]
        wait_for(lambda: set(NODES) <= set(made.node.get_node_names()), START_S, "the nodes")
        yield made


@pytest.mark.ros
@pytest.mark.bundle
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("node", NODES)
def test_a_policy_allows_what_the_node_has_and_no_more(
    robot: Bench, repository: Path, node: str
) -> None:
    rules = rules_of(read_policy(repository, node))

    def differences() -> tuple[dict[Any, Any], dict[Any, Any]]:
        has = graph_of(robot, node)
        denied = {
            key: missing
            for key, names in has.items()
            if (
                missing := {
                    n
                    for n in names
                    if not any(fnmatch.fnmatchcase(n, rule) for rule in rules[key])
                }
            )
        }
        idle = {
            key: unused
            for key, allowed in rules.items()
            if (
                unused := {
                    rule for rule in allowed - set(ELSEWHERE) if not fnmatch.filter(has[key], rule)
                }
            )
        }
        return denied, idle

    # Discovery brings the graph bit by bit.
    wait_for(lambda: differences() == ({}, {}), REPLY_S, f"{differences()} to be nothing")


# What a display or a panel shows.
SHOWN = {
    "rviz_default_plugins/Odometry": "nav_msgs/msg/Odometry",
    "rviz_default_plugins/LaserScan": "sensor_msgs/msg/LaserScan",
    "rviz_default_plugins/Pose": "geometry_msgs/msg/PoseStamped",
    "rviz_default_plugins/SetGoal": "geometry_msgs/msg/PoseStamped",
}


def shown_by_rviz(repository: Path) -> set[tuple[str, str]]:
    """Give the topics of the RViz configuration with the types of their displays."""
    file = repository / "config" / "rviz" / "robot.rviz"
    manager = yaml.safe_load(file.read_text())["Visualization Manager"]
    return {
        (entry["Topic"]["Value"], SHOWN[entry["Class"]])
        for entry in (*manager["Displays"], *manager["Tools"])
        if "Topic" in entry
    }


def foxglove(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "config" / "foxglove" / "quant_llm.json").read_text())


def test_foxglove_shows_every_panel_once(repository: Path) -> None:
    layout = foxglove(repository)

    def panels(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert part["direction"] in ("row", "column")
        return panels(part["first"]) + panels(part["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    assert {"configById", "globalVariables", "layout", "playbackConfig", "userNodes"} == set(
        layout
    )


@pytest.mark.ros
@pytest.mark.bundle
@pytest.mark.timeout(1800)
def test_what_the_views_show_is_there(robot: Bench, repository: Path) -> None:
    where = robot.namespace
    graph = {
        name.removeprefix(where): kinds[0]
        for name, kinds in robot.node.get_topic_names_and_types()
    }
    for topic, kind in shown_by_rviz(repository):
        assert graph[topic] == kind
    paths = {text for text in strings(foxglove(repository)["configById"]) if text[:1] == "/"}
    assert len(paths) > 10
    for path in paths:
        topic, *fields = re.split(r"\.", re.sub(r"\[.*?\]|\{.*?\}", "", path))
        if topic == "/diagnostics":
            continue  # of whoever reports about health
        package, _, name = graph[topic].split("/")
        message = getattr(importlib.import_module(f"{package}.msg"), name)
        for field in fields:
            assert hasattr(message(), field), path
            message = kind_of(message, field)


def strings(value: Any) -> Iterator[str]:
    """Give all strings in a JSON value, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def kind_of(message: Any, field: str) -> Any:
    """Give the type of a field that is a message, or of the messages in a list."""
    kind = message.get_fields_and_field_types()[field]
    match = re.fullmatch(r"(?:sequence<)?(\w+)/(\w+)>?", kind)
    if match is None:
        return None
    return getattr(importlib.import_module(f"{match[1]}.msg"), match[2])
