"""launch/submit.py and the job that it sends, without a cluster; on one: tests/cluster."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from running import arguments

from harness.errors import UserError
from launch import submit
from launch.jobs import slurm
from launch.jobs.resources import Profile
from launch.jobs.slurm import TrainJob
from launch.run import settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "submit.py"
PROFILE = """
partition = "debug"
account = "my account"
cpus_per_task = 1
time = 30
signal_delay_s = 77
setup = ["export OMP_NUM_THREADS=1"]
[additional_parameters]
exclude = "node9"
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(PROFILE)
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert submit.main([*words, "--print"]) == 0
    return capsys.readouterr().out


class TestWithoutACluster:
    def test_print_shows_the_profile_and_makes_nothing(
        self, capsys: pytest.CaptureFixture[str], profile: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "a run"
        words = ("--nodes", "2", "--gpus_per_node", "4", "--profile", str(profile), "--output_dir", str(folder))
        text = printed(capsys, "--task", "mednli", *words)
        expected = ("partition=debug", "account='my account'", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
                    "cpus-per-task=1", "time=30", "signal=USR2@77", "exclude=node9", "requeue")  # fmt: skip
        assert [word for word in expected if f"#SBATCH --{word}\n" not in text] == []
        assert "\nexport OMP_NUM_THREADS=1\n" in text
        assert f"'{folder}/submitit'" in text and not folder.exists()

    def test_cpus_alone(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        words = ("--gpus_per_node", "0", "--tasks_per_node", "2", "--output_dir", str(tmp_path / "run"))
        text = printed(capsys, "--task", "mednli", *words)
        assert "gpus" not in text and "#SBATCH --ntasks-per-node=2\n" in text and "--partition" not in text

    def test_example_profile_can_be_read(self) -> None:
        assert Profile.read(ROOT / "slurm" / "cluster.example.toml").partition == "gpu"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('partion = "x"', "partion: no such key; did you mean partition?"),
            ("time = 0", "time = 0: must be at least 1"),
            ("time = true", "time = True: must be a whole number"),
            ("qos = 3", "qos = 3: must be text"),
            ('setup = "module load"', "setup = 'module load': must be a list"),
            ("time =", "not TOML"),
        ],
    )
    def test_faults_of_a_profile(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text(text)
        with pytest.raises(UserError, match=str(path)) as error:
            Profile.read(path)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ("--task", "mednli", "--learning_rat", "1"),
                "--learning_rat: no such flag; did you mean --learning_rate?",
            ),
            (("--task", "mednli", "--nodes", "0"), "--nodes 0: must be at least 1"),
            (("--task", "mednli", "--nodes", "two"), "invalid int value"),
            (("--task", "mednli", "--gpus_per_node", "2", "--tasks_per_node", "3"), "--gpus_per_node 2"),
            (("--task", "mednli", "--cluster", "local", "--nodes", "2"), "deepspeed --num_gpus 2"),
            (("--task", "mednli", "--profile", "/nowhere.toml"), "--profile /nowhere.toml: cannot be read"),
            ((), "--task is missing"),
        ],
    )
    def test_mistakes_are_said_before_anything_is_submitted(
        self, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert submit.main(words) == 2
        error = capsys.readouterr().err
        assert said in error and error.startswith("error: ") and len(error.splitlines()) == 1

    def test_suite_file_in_the_folder_of_its_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        suite = tmp_path / "mednli" / "m" / "seed-12" / "suite.toml"
        suite.parent.mkdir(parents=True)
        suite.write_text('tasks = ["mednli"]\nmodels = ["m"]\nseeds = 1\n')
        assert submit.main(["--suite", str(suite), "--data_dir", "/d", "--output_dir", str(tmp_path), "--print"]) == 2
        assert f"--suite {suite}: lies in the run's own --output_dir {suite.parent}" in capsys.readouterr().err

    def test_job_pickles_and_a_requeued_one_is_the_same(self, tmp_path: Path) -> None:
        config, _ = settings.parse(["--task", "mednli", "--output_dir", str(tmp_path)])
        sent = TrainJob(config.to_dict())
        assert pickle.loads(pickle.dumps(sent)) == sent
        assert sent.checkpoint().function == sent
        assert type(config).from_dict(sent.config) == config

    def test_snapshot_holds_what_a_run_reads(self, tmp_path: Path) -> None:
        code = slurm.snapshot(tmp_path)
        assert code == slurm.snapshot_folder(tmp_path) == slurm.snapshot(tmp_path)
        for name in (
            "launch/jobs/slurm.py",
            "harness/loop.py",
            "ds_configs/fp32.json",
            "tasks/samples/mednli/train.tsv",
        ):
            assert (code / name).read_bytes() == (ROOT / name).read_bytes()
        assert len((code / "COMMIT").read_text().strip()) == 40 and (code / "changes.diff").is_file()

    def test_debug_runs_here_and_a_finished_run_is_not_run_again(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "2")
        assert submit.main([*line, "--cluster", "debug"]) == 0
        assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2
        assert submit.main([*line, "--cluster", "slurm"]) == 0
        assert "finished before" in capsys.readouterr().out
