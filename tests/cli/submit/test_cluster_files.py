"""The files in ``cluster/``, checked without a cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest

from distnum.cli.commands import COMMANDS
from distnum.cli.options import parsed

CLUSTER = Path(__file__).resolve().parents[3] / "cluster"
SCRIPTS = [CLUSTER / "slurm.sh", CLUSTER / "local" / "start.sh", CLUSTER / "local" / "stop.sh"]


@pytest.mark.parametrize("name", ["on-premises.yaml", "aws.yaml"])
def test_files_for_the_cluster_launcher_are_valid(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((CLUSTER / name).read_text())
    util.validate_config(util.prepare_config(config))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        util.validate_config({**config, "idle_timeout_minute": 5})


def test_the_ray_job_has_the_fields_of_kuberay() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    known = {"entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    assert set(spec) == known | {"backoffLimit", "rayClusterSpec"}
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {"rayStartParams", "template"} <= set(group)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert {"name", "image", "env", "resources", "volumeMounts"} <= set(container)
    for workers in cluster["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= set(workers)
    assert isinstance(yaml.safe_load(spec["runtimeEnvYAML"]), dict)
    # distnum takes its command.
    words = spec["entrypoint"].split()
    assert words[:2] == ["distnum", "train"]
    assert parsed(words[1:], COMMANDS).address == "auto"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_every_file_that_installs_packages_names_the_required_ones() -> None:
    needed = [text.split(";")[0].strip() for text in requires("distnum") or [] if "extra ==" not in text]
    for name in ("on-premises.yaml", "aws.yaml"):
        text = (CLUSTER / name).read_text()
        for requirement in needed:
            if not requirement.startswith(("ray", "tomli>")):
                assert requirement in text, (name, requirement)
