"""Progress lines and the way they take to the terminal."""

from davss.training.progress import Progress, duration, shown


def test_lines_reach_the_terminal(tmp_path, capsys):
    log = tmp_path / "run" / "train.log"
    with shown(log):
        progress = Progress(log, "speech", total=4000, start=0)
        assert not progress.due()
        progress.valid = 0.33
        progress.update(1200, 0.31)
        progress.say("something else")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("speech 1200/4000 samples  loss 0.3100  valid 0.3300  ")
    assert lines[1] == "speech something else"


def test_only_new_lines_are_shown(tmp_path, capsys):
    log = tmp_path / "train.log"
    log.write_text("of an earlier run\n")
    with shown(log):
        pass
    assert capsys.readouterr().err == ""


def test_duration():
    assert duration(190.4) == "3:10" and duration(7390) == "2:03:10"
