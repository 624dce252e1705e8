"""The results page: its figures, its charts, and the page itself in a headless browser."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.evaluation import metrics
from davss.evaluation.mixtures import Mixture
from davss.evaluation.report import charts, examples, page, summary

RATE, SAMPLES, STEPS = 8000, 4000, 5
SPEAKERS = (1, 2)


def make_mixture(key: str, speakers: int, rng: np.random.Generator) -> Mixture:
    bursts = np.sin(np.arange(SAMPLES) / 300 + rng.uniform(0, 6, (speakers, 1))) > -0.3
    speech = (0.1 * bursts * rng.standard_normal((speakers, SAMPLES))).astype(np.float32)
    noise = (0.1 * rng.standard_normal(SAMPLES)).astype(np.float32)
    return Mixture(key, speech.sum(0) + noise, speech, noise, None, RATE)


def make_trace(sources: int) -> dict[str, np.ndarray]:
    sigma = np.geomspace(0.5, 1e-4, STEPS)
    step = np.outer(sigma, np.ones(sources))
    return {"sigma": sigma, "likelihood": sigma**2, "prior_step": step, "likelihood_step": step / 2}


@pytest.fixture(scope="module")
def results() -> page.Results:
    """Two conditions; the dns one is no better than the mixture, and one of its mixtures failed."""
    rng = np.random.default_rng(0)
    rows, estimates, signals = [], [], {}
    for condition, leak in (("wham", 0.1), ("dns", 1.4)):
        for speakers in SPEAKERS:
            for index in range(3):
                key = f"{condition}-k{speakers}-{index:04d}"
                mixture = make_mixture(key, speakers, rng)
                sources = np.concatenate([mixture.speech, mixture.noise[None]])
                amount = leak * rng.uniform(0.8, 1)
                estimate = (1 - amount) * sources + amount * mixture.mixture
                if leak > 1:
                    estimate = mixture.mixture + 0.1 * rng.standard_normal(sources.shape)
                facts = {"key": key, "num_speakers": speakers, "condition": condition}
                scored = metrics.score_sources(estimate, mixture)
                failed = key == "dns-k2-0000"
                for row in scored:
                    if failed:
                        row |= dict.fromkeys(metrics.METRICS, math.nan) | {"error": "not finite"}
                    rows.append({**facts, "prior": "wham", "sir_db": 0.0, "snr_db": 5.0, **row})
                estimates.append(
                    {"key": key, "prior": "wham", "error": "not finite" if failed else None}
                    | {"residual_db": -30.0, "seconds_taken": 2.0, "evaluations": STEPS}
                )
                signals[key] = (mixture, estimate.astype(np.float32))
    scores = pandas.DataFrame(rows)
    chosen = []
    for condition in ("wham", "dns"):
        own = scores[scores.condition == condition]
        for key, why in examples.choose(own, 1):
            mixture, estimate = signals[key]
            by_source = own[own.key == key].set_index("source").to_dict("index")
            trace = make_trace(len(estimate))
            chosen.append(
                examples.Example(
                    "wham", condition, why, mixture, estimate, by_source, {"SNR": 5.0}, trace
                )
            )
    groups = summary.summarise(scores, pandas.DataFrame(estimates))
    seen = np.array([100, 200])
    history = pandas.DataFrame(
        {"samples_seen": seen, "train_loss": [1.0, 0.5], "valid_loss": [1.1, 0.6]}
        | {"valid_loss_sigma_0.1": [1.0, 0.7]}
    )
    sampler = {"name": "dps", "num_steps": STEPS, "zeta": 0.5, "guidance_weight": 0.5}
    header = page.Header("abc123-dirty", "1 May 2026", "demo", sampler, 0)
    return page.Results(header, scores, groups, chosen, {"speech": history})


@pytest.fixture(scope="module")
def html(results: page.Results) -> str:
    return page.build_page(results)


def test_means_count_each_mixture_once_and_know_what_failed(results):
    groups = {(g.condition, g.num_speakers): g for g in results.groups}
    group = groups["wham", 2]
    own = results.scores[
        (results.scores.condition == "wham")
        & (results.scores.num_speakers == 2)
        & (results.scores.source != "noise")
    ]
    means = own.groupby("key").si_sdri.mean()
    assert group.mean["si_sdri"] == pytest.approx(means.mean())
    assert group.interval["si_sdri"] == pytest.approx(4.302653 * means.std() / 3**0.5)  # t, 2 d.f.
    assert (group.mixtures, group.failed, group.matched) == (3, 0, True)
    assert group.verdict == summary.BETTER
    short = groups["dns", 2]
    assert (short.mixtures, short.failed, short.matched) == (3, 1, False)
    assert short.verdict == summary.WORSE and short.mean["residual_db"] == -30


def test_metrics_are_plain_json(results):
    values = json.loads(json.dumps(summary.as_metrics(results.groups), allow_nan=False))
    wham = values["wham"]["wham"]["speakers_1"]
    assert wham["mixtures"] == 3 and wham["si_sdri"] > 0 and wham["si_sdri_interval"] > 0
    assert {"si_sdr", "pesq", "estoi", "noise_si_sdr"} <= set(wham)


def test_verdicts():
    def verdict(gain: float, margin: float) -> str:
        values = {"si_sdri": gain}, {"si_sdri": margin}
        return summary.Group("wham", "wham", 1, 3, 0, *values).verdict

    assert verdict(2, 1) == summary.BETTER and verdict(1, 2) == summary.UNSURE
    assert verdict(-0.1, 0.5) == summary.WORSE and verdict(0, 0.5) == summary.WORSE
    assert verdict(1, math.nan) == summary.UNSURE and verdict(math.nan, math.nan) == summary.NONE


def test_examples_are_chosen_by_rank():
    rows = [
        {"key": f"k{speakers}-{index}", "num_speakers": speakers, "source": source}
        | {"si_sdri": float(gain)}
        for speakers in (1, 2)
        for index, gain in enumerate([3, 1, 2, math.nan])
        for source in ("speaker_1", "noise")
    ]
    chosen = examples.choose(pandas.DataFrame(rows), 4)
    assert [key for key, _ in chosen] == ["k1-2", "k2-2", "k1-1", "k2-1"]
    assert chosen[0][1] == "median SI-SDRi of 3 with 1 speaker"
    assert len(examples.choose(pandas.DataFrame(rows), 100)) == 6


def test_numbers_are_typeset():
    assert page.number(-3.14159, 2) == "−3.14" and page.number(math.nan) == "–"
    assert page.signed(2.0) == "+2.0" and page.signed(-math.inf) == "−∞"


def test_spectrograms_share_the_scale_that_they_are_given():
    time = np.arange(RATE) / RATE
    levels = examples.levels_db(np.sin(2 * np.pi * 1000 * time).astype(np.float32), RATE)
    assert levels.argmax(axis=0)[5] == 32  # 1 kHz in bins of 31.25 Hz
    loud, quiet = (examples.picture(levels - drop, levels.max()) for drop in (0, 100))
    assert loud.startswith(b"\x89PNG") and len(quiet) < len(loud)


def test_charts_have_themed_colours_a_name_and_no_ids_that_clash(results):
    speech = results.scores[results.scores.source != "noise"]
    svg = charts.gains_by_speakers(speech, "A & B", charts.shared_limits(speech.si_sdri))
    assert svg.startswith("<svg ") and 'role="img"' in svg and "A &amp; B: 1 speaker mean" in svg
    assert "var(--ink)" in svg and not re.search(r'"(figure|axes)_\d', svg)
    assert not any(colour in svg for colour in charts.VARIABLES)
    again = charts.gains_by_speakers(speech, "A & B", charts.shared_limits(speech.si_sdri))
    assert svg == again


def test_page_says_what_falls_short(html):
    assert "falls short in DNS noise with 1 speaker (WHAM! prior), DNS noise with 2" in html
    assert html.count('class="worse') == 2 and "1 failed" in html
    assert "falls short of the mixture</span>" in html


def test_page_is_self_contained_and_accessible(html):
    assert len(html) < 1_000_000
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert sources and all(one.startswith(("data:", "#")) for one in sources)
    images, sounds = re.findall(r"<img [^>]*>", html), re.findall(r"<audio [^>]*>", html)
    assert len(images) == len(sounds) == 10  # for K = 1: mixture, 2 estimates, 2 references; twice
    assert all(re.search('alt="[^"]+', image) for image in images)
    assert all('aria-label="' in sound for sound in sounds)
    assert all("scope=" in cell for cell in re.findall(r"<th\b[^>]*>", html))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_page_without_training_or_examples(results):
    bare = page.Results(results.header, results.scores, results.groups, [])
    html = page.build_page(bare)
    assert "No example" in html and 'id="training"' not in html


def test_page_in_a_browser(html, tmp_path: Path):
    browsers = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(browsers)} is on PATH")
    path = tmp_path / "index.html"
    path.write_text(html)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    command = [browser, *flags.split(), *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dom = done.stdout
    assert done.returncode == 0 and "</html>" in dom
    assert dom.count("<tbody>") == 1 and dom.count("<tr") == 1 + 4
    assert dom.count("<audio") == dom.count("<img") == 10
    # Every player was set up by the script, to its end and without an error.
    assert dom.count('class="play" aria-label="Play ') == 10
    # The page's own policy forbids requests: an attempt would be an error on the console as well.
    assert "default-src 'none'" in html and "CONSOLE" not in done.stderr, done.stderr
