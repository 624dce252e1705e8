"""The results page: its figures, its charts, and the page itself in a headless browser."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from davss.evaluation import metrics
from davss.evaluation.mixtures import Mixture
from davss.evaluation.records import COST
from davss.evaluation.report import charts, examples, page, summary
from davss.evaluation.report.faces import read_faces
from tests.browser import open_page

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
    facts |= {"noise_model": model, "sir_db": 0.0, "snr_db": 5.0, "speaker_seen": False}
    facts |= {"residual_db": -30.0, "seconds_taken": 2.0, "evaluations": STEPS}
    nothing = dict.fromkeys(metrics.SOURCE_METRICS, math.nan) | {"error": "not finite"}
    references = np.concatenate([mixture.speech, mixture.noise[None]])
    scored = metrics.score_sources(estimate, references, mixture.mixture, RATE)
    return [{**facts, **row, **(nothing if failed else {})} for row in scored]


@pytest.fixture(scope="module")
def results() -> page.Results:
    """Two conditions; the dns one is no better than the mixture, and one of its mixtures failed.
    Then the same mixtures with NMF, which leaks more.
    """
    rng = np.random.default_rng(0)
    rows, signals = [], {}
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
                signals[key] = (mixture, estimate.astype(np.float32))
    for key, (mixture, _) in signals.items():
        sources = np.concatenate([mixture.speech, mixture.noise[None]])
        amount = rng.uniform(0.4, 0.6)
        estimate = (1 - amount) * sources + amount * mixture.mixture
        rows += score_rows("nmf", key.split("-")[0], mixture, estimate, False)
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
    groups = summary.summarise(scores)
    seen = np.array([100, 200])
    history = pandas.DataFrame(
        {"samples_seen": seen, "train_loss": [1.0, 0.5], "valid_loss": [1.1, 0.6]}
        | {"valid_gain_sigma_0.1": [1.0, 2.0]}
    )
    sampler = {"name": "dps", "num_steps": STEPS, "zeta": 0.5, "guidance_weight": 0.5}
    sampler["num_samples"] = 3
    header = page.Header("abc123-dirty", "1 May 2026", "demo", sampler, 0)
    differences = summary.paired_differences(scores)
    return page.Results(header, scores, groups, chosen, differences, {"speech": history})


@pytest.fixture(scope="module")
def html(results: page.Results) -> str:
    return page.build_page(results)


@pytest.fixture
def undrawn(monkeypatch):
    """Nobody looks at the charts of these pages, which take longer than all else."""
    monkeypatch.setattr(charts, "svg", lambda *_, **__: "<svg ></svg>")


def test_means_count_each_mixture_once_and_know_what_failed(results):
    groups = results.groups.set_index(["noise_model", "condition", "num_speakers"])
    group, short = groups.loc["wham", "wham", 2], groups.loc["wham", "dns", 2]
    scores = results.scores
    own = scores[(scores.noise_model == "wham") & (scores.condition == "wham")]
    own = own[(own.num_speakers == 2) & (own.source != "noise")]
    means = own.groupby("key").si_sdri.mean()
    assert group.si_sdri == pytest.approx(means.mean())
    assert group.si_sdri_ci == pytest.approx(4.302653 * means.std() / 3**0.5)  # t, 2 d.f.
    assert (group.mixtures, group.failed, group.verdict) == (3, 0, summary.BETTER)
    assert (short.mixtures, short.failed, short.verdict) == (3, 1, summary.WORSE)
    assert short.residual_db == -30 and set(groups.who) == {"unseen"}


def test_scores_are_plain_json(results):
    values = json.loads(summary.as_scores(results.groups, results.differences))
    wham = values["groups"][0]
    assert (wham["noise_model"], wham["condition"], wham["num_speakers"]) == ("wham", "wham", 1)
    assert wham["who"] == "unseen" and wham["mixtures"] == 3 and wham["si_sdri_ci"] > 0
    assert {*summary.SPEECH_METRICS, *COST, "noise_si_sdr"} <= set(wham)
    over_all = values["minus_nmf"][0]
    assert over_all["condition"] == "all" and over_all["mixtures"] == 11
    assert len(values["groups"]) == 8 and len(values["minus_nmf"]) == 5


def test_what_dvc_compares_is_small_flat_and_fits_a_terminal(results):
    outcomes = {name: {"valid_gain": 12.345, "seconds": 1.0} for name in ("speech", "wham")}
    text = summary.as_metrics(results.groups, results.differences, "wham", outcomes)
    values = json.loads(text)
    names = ["wham1", "wham2", "dns1", "dns2", "vs_nmf", "speech_gain", "noise_gain"]
    assert list(values) == names and values["wham1"] > 0 > values["dns1"]
    assert values["noise_gain"] in (12.34, 12.35)
    over_all = results.differences[results.differences.condition == "all"]
    assert values["vs_nmf"] == pytest.approx(over_all.si_sdr.item(), abs=0.01)
    # `dvc metrics show` has a column for each beside the path, four blanks apart
    demo = dict.fromkeys([*values, "wham3", "dns3"], -12.34)
    widths = (max(len(name), len(str(value))) for name, value in demo.items())
    assert len("report/metrics.json") + sum(4 + width for width in widths) <= 120


def test_speakers_that_training_knew_are_apart(results, undrawn):
    """Half of the mixtures of one speaker are of somebody known, and better by 9 dB."""
    scores = results.scores.copy()
    known = scores.key.str.contains("k1-0000") & (scores.source != "noise")
    scores.loc[known, ["speaker_seen", "si_sdri"]] = True, 99.0
    groups, differences = summary.summarise(scores), summary.paired_differences(scores)
    places = groups.set_index(["noise_model", "condition", "num_speakers", "who"])
    seen, unseen = (places.loc["wham", "wham", 1, who] for who in ("seen", "unseen"))
    assert seen.si_sdri == 99 and seen.mixtures == 1
    assert unseen.mixtures == 2 and unseen.si_sdri < 40
    found = json.loads(summary.as_metrics(groups, differences, "wham", {}))
    assert found["wham1"] < 40, "the headline: unseen"
    html = page.build_page(replace(results, scores=scores, groups=groups, differences=differences))
    assert "10 mixtures of unseen speakers" in html and "<small>seen</small>" in html
    assert "of speakers known from training, above" in html and "99" not in headline(html)


def headline(html: str) -> str:
    return html[html.index("<h1>") : html.index("</h1>")]


def test_differences_are_over_the_mixtures_that_both_separated(results):
    speech = results.scores[results.scores.source != "noise"]
    means = speech.groupby(["noise_model", "key"]).si_sdr.agg(lambda c: c.mean(skipna=False))
    both = pandas.DataFrame({"wham": means["wham"], "nmf": means["nmf"]}).dropna()
    found = results.differences.set_index(["condition", "num_speakers"])
    assert list(found.index) == [
        ("all", "all"),
        *((condition, count) for condition in ("wham", "dns") for count in SPEAKERS),
    ]
    for place, own in {
        ("all", "all"): both,
        ("dns", 2): both.filter(like="dns-k2", axis=0),
    }.items():
        assert found.mixtures[place] == len(own)
        assert found.si_sdr[place] == pytest.approx((own.wham - own.nmf).mean())


def test_no_differences_without_the_baseline_or_a_trained_prior(results):
    scores = results.scores
    for model in ("wham", "nmf"):
        assert summary.paired_differences(scores[scores.noise_model == model]).empty


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
    over_all = ("wham", "all", "all", "unseen", 4, mean, interval)
    parts = [("wham", "dns", k, "unseen", 2, 2.5 - k, 0.1) for k in (0, 1, 2)]
    names = ["noise_model", "condition", "num_speakers", "who", "mixtures", "si_sdr", "si_sdr_ci"]
    frame = pandas.DataFrame([over_all, *parts], columns=names)
    frame["verdict"] = summary.verdict(mean, interval, summary.CLAIMED_DB)
    (claim,) = page.claims(frame)
    assert said in claim and "beats NMF by more than 2 dB SI-SDR" in claim
    assert claim.endswith(", above 2 dB in 1 of 3 settings.") and page.claims(frame[1:]) == []


def test_verdicts():
    def verdict(gain: float, margin: float) -> str:
        return summary.verdict(gain, margin, 0.0)

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
    groups = results.groups[results.groups.condition == "wham"]
    names = {"wham": "diffusion (WHAM!)", "nmf": "NMF"}
    svg = charts.gains_by_noise_model(groups, names, "WHAM! noise", (-5, 20))
    label = re.search('aria-label="([^"]*)"', svg).group(1)
    for group in groups.itertuples():
        assert f"{names[group.noise_model]} {group.si_sdri:.1f} dB" in label
    assert all(f">{name}</text>" in svg for name in names.values())
    assert "var(--series-1)" in svg and "var(--series-2)" in svg
    alone = groups[:1].assign(si_sdri_ci=math.nan)
    assert "<svg" in charts.gains_by_noise_model(alone, names, "one mixture", (-5, 20))


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


@pytest.mark.parametrize(
    ("model", "said", "unsaid"),
    [
        ("wham", ["No example"], ["noise-models", ">NMF", 'id="training"']),
        ("nmf", ["No mixture has been scored with a trained", 'id="noise-models"'], ["than 2 dB"]),
    ],
)
def test_page_of_one_noise_model_compares_nothing(results, undrawn, model, said, unsaid):
    scores, groups = (one[one.noise_model == model] for one in (results.scores, results.groups))
    html = page.build_page(page.Results(results.header, scores, groups, []))
    assert all(text in html for text in said) and not any(text in html for text in unsaid)


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


def test_training_has_its_gains_in_a_table_and_by_noise_level(results, undrawn):
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
    assert "WHAM! prior: gain by σ" in table


def test_robustness_has_a_chart_for_every_kind_of_damage(results):
    figures = {"who": "unseen", "si_sdr": [9.0, 7.0, 4.0], "si_sdr_ci": 0.5, "si_sdr_mixture": 5.0}
    table = pandas.DataFrame({"damage": ["none", "clip:0.1", "opus:24"], **figures})
    drawn = charts.robustness(table, "one speaker")
    assert len(drawn) == 2 and "SI-SDR by clip, one speaker, unseen speakers" in drawn[0]
    # texts are texts: what is on the axis, and not what is on that of the other chart
    assert ">0.1<" in drawn[0] and ">none<" in drawn[0] and ">24<" not in drawn[0]
    bare = replace(results, training={}, examples=[], robustness={"one speaker": table})
    html = page.build_page(bare)
    assert html.count("SI-SDR by clip, one speaker") == 1 and 'href="#robustness"' in html


# The cells of a column of the first table, and its head.
CELLS = "[...document.querySelectorAll('tbody')[0].rows].map(row => row.cells[{}].textContent)"
HEAD = "document.querySelectorAll('.sort')[{}]"


def test_page_in_a_browser(html, tmp_path: Path):
    (tmp_path / "index.html").write_text(html)
    # The page's own policy forbids requests: an attempt would be an error.
    assert "default-src 'none'" in html
    asyncio.run(_use((tmp_path / "index.html").as_uri(), tmp_path / "profile"))


async def _use(url: str, profile: Path) -> None:
    async with open_page(url, profile) as tab:
        assert await tab.ask("document.querySelectorAll('audio').length") == 10
        # Every player was set up by the script, to its end.
        await tab.ask("document.querySelectorAll('.play')[1].click()")
        await tab.until("document.querySelectorAll('audio')[1].currentTime > 0")
        for width in (390, 1280):
            await tab.resize(width, 844)
            await tab.until("document.documentElement.scrollWidth <= innerWidth", 5)
        written = await tab.ask(CELLS.format(2))
        await tab.ask(HEAD.format(2) + ".click()")
        assert await tab.ask(CELLS.format(2)) == sorted(written, reverse=True) != written
        await tab.ask(HEAD.format(0) + ".click()")
        assert (await tab.ask(CELLS.format(0)))[0] == "DNS", "words begin with A"
        await tab.ask(HEAD.format(4) + ".click()")
        ends = [cell.partition("→ ")[2].split()[0] for cell in await tab.ask(CELLS.format(4))]
        numbers = [float(end.replace("−", "-")) for end in ends]
        assert numbers == sorted(numbers, reverse=True)
        assert await tab.ask(HEAD.format(4) + ".parentNode.ariaSort") == "descending"
        assert tab.errors == []


def test_faces_have_figures_and_a_sheet(results, undrawn, tmp_path: Path):
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
