"""What is in deploy/: the image's recipe, Kubernetes' objects, and a server that is process 1."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gworkers.config.load import load
from tests.support.servers import ROOT, configuration, consume, produce, until

DEPLOY = ROOT / "deploy"


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_the_image_is_made_as_images_should_be() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run([hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.M)
    assert re.search(r'^ENTRYPOINT \["gworkers"\]$', text, re.M)  # the exec form: SIGTERM comes to it


@pytest.mark.parametrize("version", ["1.28", "1.30", kubernetes_validate.latest_version()])
def test_kubernetes_takes_the_objects(version: str) -> None:
    kinds = []
    for one in [*objects("kubernetes.yaml"), *objects("autoscaler.yaml")]:
        kubernetes_validate.validate(one, version, strict=True)
        kinds.append(one["kind"])
    assert kinds == ["StatefulSet", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]


def test_what_the_objects_say_fits_together(tmp_path: Path) -> None:
    """The configuration in the comment is one, its grace is shorter than the pod's, its paths are
    mounted, and the scalers scale what there is."""
    text = (DEPLOY / "kubernetes.yaml").read_text()
    lines = [line.removeprefix("#").removeprefix("   ") for line in text.split("\n#\n")[2].split("\n") if line.startswith("#")]
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/read.token").write_text("a-token-of-sixteen-characters\n")
    config_text = "\n".join(lines).replace("/secrets/", f"{tmp_path}/secrets/")
    (tmp_path / "app.yaml").write_text(
        config_text + "\nroutes: {price: {topics: [orders], handler: shop.pricing:price}}\ndelivery: exactly-once\n"
    )
    config = load(tmp_path / "app.yaml").config
    (pod,) = [one["spec"]["template"]["spec"] for one in objects("kubernetes.yaml") if one["kind"] == "StatefulSet"]
    (container,) = pod["containers"]
    assert config.shutdown.grace < pod["terminationGracePeriodSeconds"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {config.state_dir, "/secrets", os.path.dirname(container["args"][2])} <= mounted
    names = {one["metadata"]["name"] for one in objects("kubernetes.yaml")}
    for file in ("keda.yaml", "autoscaler.yaml"):
        (scaler,) = objects(file)
        assert scaler["spec"]["scaleTargetRef"]["name"] in names
        assert scaler["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"
    (scaled,) = objects("keda.yaml")
    assert scaled["spec"]["triggers"][0]["metadata"]["consumerGroup"] == config.kafka.group


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a process namespace of its own")
def test_as_process_1_it_drains_when_it_is_asked_to(kafka_servers: str, source: str, output: str) -> None:
    """A container's process 1 has no default actions for signals."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text("import time\ndef handle(value):\n    time.sleep(0.5)\n    return value\n")
        (folder / "app.yaml").write_text(yaml.safe_dump(configuration(kafka_servers, "app:handle", source, output)))
        log = folder / "log"
        with log.open("w") as file:
            command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", "gworkers", "-c", "app.yaml"]
            outer = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            until(lambda: "assigned: " in log.read_text(), what="partitions")
            assert "pid 1, " in log.read_text()
            produce(kafka_servers, source, ((None, b"%d" % n) for n in range(8)))
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            until(lambda: "running 8" in log.read_text() or len(consume(kafka_servers, output)) > 0, what="work")
            os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
            assert outer.wait(30) == 0, log.read_text()
        finally:
            outer.kill()
            outer.wait()
        assert "SIGTERM: draining" in log.read_text()
        assert "everything settled" in log.read_text()
