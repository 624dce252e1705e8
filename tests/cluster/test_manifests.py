"""Manifests of the cluster: they parse, name what the code reads, and retry nothing."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from jsonschema import ValidationError, validate

from cluster import render

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


@pytest.fixture
def spec(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    render.main(["train_speech"])
    manifest = yaml.safe_load(capsys.readouterr().out)
    assert manifest["apiVersion"] == "ray.io/v1" and manifest["kind"] == "RayJob"
    assert re.fullmatch(r"[a-z0-9-]{1,47}", manifest["metadata"]["name"])
    return manifest["spec"]


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda path: path.name)
def test_yaml_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_a_failed_job_is_not_repeated(spec):
    assert spec["backoffLimit"] == 0 and spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode"


def test_the_entrypoint_is_a_stage(spec):
    assert "dvc repro" not in spec["entrypoint"], "dvc.lock would be lost"
    module, prior = re.search(r"python -m (pipelines\.\w+) (\w+)$", spec["entrypoint"]).groups()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert f"python -m {module} {prior}" in [stage.get("cmd") for stage in stages.values()]
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_every_node_mounts_what_the_job_reads(spec):
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert all(isinstance(value, str) for value in environment.values())
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        assert {environment["DAVSS_STORAGE"], environment["PYTHONPATH"]} <= set(mounts)
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}


def test_workers_have_gpus(spec):
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    gpus = int(limits["nvidia.com/gpu"]) * group["replicas"]
    assert gpus >= int(environment["DAVSS_NUM_WORKERS"]) >= 1


def test_versions_are_those_of_the_lock(spec):
    lock = (ROOT / "requirements.lock").read_text()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}" in lock
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    image = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f":{version}")


def test_a_cluster_that_stays_grows_from_nothing_with_a_token_and_no_secret_in_it(spec):
    cluster = yaml.safe_load((CLUSTER / "raycluster.yaml").read_text())["spec"]
    assert cluster["rayVersion"] == spec["rayClusterSpec"]["rayVersion"]
    assert cluster["authOptions"] == spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in groups] == [0, 0]
    image = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    for group in (head, *groups):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == image
        assert container["envFrom"] == [{"secretRef": {"name": "davss-bucket"}}]
        assert {each["name"] for each in container.get("env", [])} <= {"DAVSS_CACHE_GB"}


def test_manifests_have_kuberays_schema(spec):
    """A reduced copy of its CRDs (tests/data/README.md), in which unknown keys are errors."""
    schema = json.loads((ROOT / "tests" / "data" / "kuberay.json").read_text())
    cluster = yaml.safe_load((CLUSTER / "raycluster.yaml").read_text())["spec"]
    for kind, given in (("RayJob", spec), ("RayCluster", cluster)):
        validate(given, schema | {"$ref": f"#/$defs/{kind}"})
    for group in cluster["workerGroupSpecs"]:
        group["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(ValidationError, match="'volumeMount' was unexpected"):
        validate(cluster, schema | {"$ref": "#/$defs/RayCluster"})


def test_aws_has_rays_schema_and_a_private_head():
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    validate(config, schema)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    with pytest.raises(ValidationError, match="max_workerz"):
        validate(config | {"max_workerz": 1}, schema)


def test_slurm_script_is_bash_and_has_a_token():
    script = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "RAY_AUTH_MODE=token" in script.read_text()


def test_the_image_holds_packages_and_no_code():
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    instructions = [line for line in lines if line and not line.startswith(("#", " "))]
    assert instructions[0].startswith("FROM python:3.11")
    assert [line for line in instructions if line.startswith("COPY")] == [
        "COPY requirements.lock ."
    ]
    assert any("--no-deps -r requirements.lock" in line for line in instructions)
