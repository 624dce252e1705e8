"""The results page: its figures, its charts, and the page itself in a headless browser."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas
import pytest
from scipy import stats

from davss import config
from davss.evaluation import metrics
from davss.evaluation.mixtures import Mixture
from davss.evaluation.report import charts, examples, page, summary
from davss.evaluation.report.faces import read_faces

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


def score_rows(model: str, condition: str, mixture: Mixture, estimate, failed: bool) -> list[dict]:
    facts = {"key": mixture.key, "num_speakers": len(mixture.speech), "condition": condition}
    facts |= {"noise_model": model, "sir_db": 0.0, "snr_db": 5.0}
    nothing = dict.fromkeys(metrics.METRICS, math.nan) | {"error": "not finite"}
    scored = metrics.score_sources(estimate, mixture)
    return [{**facts, **row, **(nothing if failed else {})} for row in scored]


def estimate_row(model: str, key: str, failed: bool) -> dict:
    row = {"key": key, "noise_model": model, "error": "not finite" if failed else None}
    return row | {"residual_db": -30.0, "seconds_taken": 2.0, "evaluations": STEPS}


@pytest.fixture(scope="module")
def results() -> page.Results:
    """Two conditions; the dns one is no better than the mixture, and one of its mixtures failed.
    Then the same mixtures with NMF, which leaks more.
    """
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
                failed = key == "dns-k2-0000"
                rows += score_rows("wham", condition, mixture, estimate, failed)
                estimates.append(estimate_row("wham", key, failed))
                signals[key] = (mixture, estimate.astype(np.float32))
    for key, (mixture, _) in signals.items():
        sources = np.concatenate([mixture.speech, mixture.noise[None]])
        amount = rng.uniform(0.4, 0.6)
        estimate = (1 - amount) * sources + amount * mixture.mixture
        rows += score_rows("nmf", key.split("-")[0], mixture, estimate, False)
        estimates.append(estimate_row("nmf", key, False))
    scores = pandas.DataFrame(rows)
    chosen = []
    for condition in ("wham", "dns"):
        own = scores[(scores.condition == condition) & (scores.noise_model == "wham")]
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
    sampler["num_samples"] = 3
    header = page.Header("abc123-dirty", "1 May 2026", "demo", sampler, 0)
    differences = summary.paired_differences(scores)
    return page.Results(header, scores, groups, chosen, differences, {"speech": history})


@pytest.fixture(scope="module")
def html(results: page.Results) -> str:
    return page.build_page(results)


def test_means_count_each_mixture_once_and_know_what_failed(results):
    groups = {(g.condition, g.num_speakers): g for g in results.groups if g.trained}
    group = groups["wham", 2]
    own = results.scores[
        (results.scores.noise_model == "wham")
        & (results.scores.condition == "wham")
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
    found = summary.as_metrics(results.groups, results.differences)
    values = json.loads(json.dumps(found, allow_nan=False))
    wham = values["wham"]["wham"]["speakers_1"]
    assert wham["mixtures"] == 3 and wham["si_sdri"] > 0 and wham["si_sdri_interval"] > 0
    assert {"si_sdr", "pesq", "estoi", "noise_si_sdr"} <= set(wham)
    assert set(values) == {"wham", "nmf", "noise_models"}
    pairs = values["noise_models"]["wham_minus_nmf"]
    assert pairs["all"]["mixtures"] == 11 and pairs["dns"]["speakers_2"]["mixtures"] == 2
    assert pairs["wham"]["speakers_1"]["si_sdr"] > 0
    assert {"si_sdr", "si_sdr_interval", "mixtures"} == set(pairs["all"])


def test_paired_differences_are_those_of_a_paired_t_test(results):
    """Over the mixtures that both separated; scipy's own paired test gives the interval."""
    speech = results.scores[results.scores.source != "noise"]
    means = speech.groupby(["noise_model", "key"]).si_sdr.agg(lambda c: c.mean(skipna=False))
    both = pandas.DataFrame({"wham": means["wham"], "nmf": means["nmf"]}).dropna()
    cases = [(both, None, None), (both.filter(like="dns-k2", axis=0), "dns", 2)]
    for own, condition, count in cases:
        test = stats.ttest_rel(own.wham, own.nmf)
        interval = test.confidence_interval(0.95)
        (found,) = (
            d for d in results.differences if (d.condition, d.num_speakers) == (condition, count)
        )
        assert found.mixtures == len(own) and found.noise_model == "wham"
        assert found.mean == pytest.approx((own.wham - own.nmf).mean())
        assert found.mean - found.interval == pytest.approx(interval.low)
        assert found.mean + found.interval == pytest.approx(interval.high)
    assert [(d.condition, d.num_speakers) for d in results.differences] == [
        (None, None),
        *((condition, count) for condition in ("wham", "dns") for count in SPEAKERS),
    ]


def test_no_differences_without_the_baseline_or_a_trained_prior(results):
    scores = results.scores
    assert summary.paired_differences(scores[scores.noise_model == "wham"]) == []
    assert summary.paired_differences(scores[scores.noise_model == "nmf"]) == []


@pytest.mark.parametrize(
    ("mean", "interval", "said"),
    [
        (
            2.9,
            0.5,
            "is met here with diffusion (WHAM!): +2.9 ± 0.5 dB over the same 4",
        ),
        (2.3, 0.5, "is met here on average, but not beyond the error, with"),
        (2.9, math.nan, "is met here on average, but not beyond the error, with"),
        (0.4, 0.1, "is not met here with diffusion (WHAM!): +0.4 ± 0.1 dB"),
        (-1.0, 0.1, "is not met here with diffusion (WHAM!): −1.0 ± 0.1 dB"),
        (math.nan, math.nan, "could not be tested here"),
    ],
)
def test_the_claim_is_judged_plainly(mean, interval, said):
    over_all = summary.Difference("wham", None, None, 4, mean, interval)
    parts = [summary.Difference("wham", "dns", k, 2, 2.5 - k, 0.1) for k in (0, 1, 2)]
    (claim,) = page.claims([over_all, *parts])
    assert said in claim and "beats NMF by more than 2 dB SI-SDR" in claim
    assert claim.endswith(", above 2 dB in 1 of 3 settings.") and page.claims(parts) == []


def test_all_models_without_training_have_a_name():
    assert set(summary.UNTRAINED) == set(get_args(config.NoiseModel))


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


def test_the_chart_of_noise_models_says_all_means(results):
    groups = [group for group in results.groups if group.condition == "wham"]
    names = {"wham": "diffusion (WHAM!)", "nmf": "NMF"}
    svg = charts.gains_by_noise_model(groups, names, "WHAM! noise", (-5, 20))
    label = re.search('aria-label="([^"]*)"', svg).group(1)
    for group in groups:
        assert f"{names[group.noise_model]} {group.mean['si_sdri']:.1f} dB" in label
    assert all(f">{name}</text>" in svg for name in names.values())
    assert "var(--series-1)" in svg and "var(--series-2)" in svg
    alone = replace(groups[0], interval=dict.fromkeys(groups[0].interval, math.nan))
    assert "<svg" in charts.gains_by_noise_model([alone], names, "one mixture", (-5, 20))


def test_page_says_what_falls_short(html):
    assert "falls short in DNS noise with 1 speaker (WHAM! prior), DNS noise with 2" in html
    assert html.count('class="worse') == 2 and "1 failed" in html
    assert "falls short of the mixture</span>" in html


def test_page_compares_noise_models_apart_from_the_trained_prior(html, results):
    scores, rest = html.split('id="noise-models"')
    comparison, rest = rest.split('id="distributions"')
    assert ">NMF" not in scores and ">NMF" not in rest
    assert "diffusion (WHAM!) − NMF" in comparison and "beats NMF by more than 2 dB" in comparison
    assert comparison.count("<tr") == 1 + 4 and comparison.count("<svg") == 2
    assert "1 failed" in comparison and "2 mixtures</span>" in comparison
    assert "<h1>Separated speech beats the mixture in 2 of 4 settings" in html
    assert "12 mixtures of unseen speakers" in html
    assert "Sampler: dps, 5 steps, mean of 3 draws" in html


def test_page_of_trained_priors_alone_compares_nothing(results):
    scores = results.scores[results.scores.noise_model == "wham"]
    groups = [group for group in results.groups if group.trained]
    html = page.build_page(page.Results(results.header, scores, groups, []))
    assert "noise-models" not in html and ">NMF" not in html


def test_page_of_untrained_models_alone_says_so(results):
    scores = results.scores[results.scores.noise_model == "nmf"]
    groups = [group for group in results.groups if not group.trained]
    html = page.build_page(page.Results(results.header, scores, groups, []))
    assert "No mixture has been scored with a trained noise prior." in html
    assert 'id="noise-models"' in html and "more than 2 dB" not in html


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


def test_training_has_its_gains_in_a_table_and_by_noise_level(results):
    history = pandas.DataFrame(
        {"samples_seen": [100, 200], "valid_loss": [1.0, 0.9]}
        | {"valid_gain_sigma_0.1": [1.0, 2.0], "valid_loss_sigma_0.1": [1.0, 0.7]}
    )
    outcome = {"valid_gain": 3.018, "valid_gain_over_spectrum": -0.44}
    outcome |= {"samples_seen": 2800, "seconds": 240.0}
    old = {"samples_seen": 5, "seconds": 6.0}  # of a run that measured no gain
    html = page.build_page(
        replace(results, training={"wham": history}, outcomes={"wham": outcome, "speech": old})
    )
    table = html[html.index('id="training"') :]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    cells = [(name, re.findall(r'<td class="n">(.*?)</td>', row)) for name, row in rows]
    assert cells == [
        ("WHAM!", ["+3.02", "−0.44", "2,800", "4.0"]),
        ("speech", ["–", "–", "5", "0.1"]),
    ]
    assert "WHAM! prior: gain by σ" in table and "loss by σ" not in table


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
    assert dom.count("<tbody>") == 2 and dom.count("<tr") == 2 * (1 + 4)
    assert dom.count("<audio") == dom.count("<img") == 10
    # Every player was set up by the script, to its end and without an error.
    assert dom.count('class="play" aria-label="Play ') == 10
    # The page's own policy forbids requests: an attempt would be an error on the console as well.
    assert "default-src 'none'" in html and "CONSOLE" not in done.stderr, done.stderr


def test_faces_have_figures_and_a_sheet(results, tmp_path: Path):
    columns = {"share": [1.0, 0.9, None], "score": [0.9, 0.7, None]}
    columns |= {"jitter": [0.2, 0.4, None], "faces": [1, 2, None]}
    pandas.DataFrame(columns).to_parquet(tmp_path / "train.clips.parquet")
    pandas.DataFrame({"split": ["train", "test"]}).to_parquet(tmp_path / "rejects.parquet")
    (tmp_path / "train.faces.jpg").write_bytes(b"a picture")
    (one,) = read_faces(tmp_path)
    assert (one.split, one.clips, one.rejects, one.several) == ("train", 2, 1, 1)
    assert (one.share, one.score) == pytest.approx((0.95, 0.8))
    html = page.build_page(replace(results, faces=[one]))
    assert 'id="faces"' in html and "jitter 0.30 px" in html and "in 95.0 % of frames" in html
    assert base64.b64encode(b"a picture").decode() in html
    assert read_faces(tmp_path / "nothing") == []
