"""Sentences that say in plain words what the numbers of global maps and PEPPR mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_xai.global_maps import GlobalMapsResult, PEPPRResult
from lightning_xai.global_maps.bias_finder import Bias
from lightning_xai.global_maps.result import FIRM, SCORES
from lightning_xai.report.tables import number_of, resampling_line

#: Below this AUC a model is too weak for its maps to mean much.
WEAK = 0.7
#: Rank correlation of the maps of two halves above which a map is the same for other images.
STABLE = 0.8
#: Orders of erasing, and the number that holds the area of each.
ORDERS = {"most important first": "area_erase", "random": "area_random", "least important first": "area_reversed"}


@dataclass(frozen=True)
class Findings:
    """All results of ``task=global``.

    Attributes:
        maps: The global maps.
        peppr: PEPPR of the overall map, and of each label's.
        intervals: 95 % intervals of the numbers of ``peppr.summary()``.
        region: Bool ``(*S)``, where evidence can be.
        biases: How much of each label's map lies outside.
        retrained: Whether a new model was trained for each step of PEPPR.
    """

    maps: GlobalMapsResult
    peppr: PEPPRResult
    intervals: dict[str, tuple[float, float]]
    region: Tensor = field(repr=False)
    biases: list[Bias]
    retrained: bool = False


def sentences(findings: Findings) -> list[str]:
    """The sentences at the top of the page, the caveats included."""
    return [
        model(findings),
        faithful(findings),
        enough(findings),
        against_center(findings),
        *stable(findings),
        *uncertain(findings),
        *specific(findings),
        *biased(findings),
    ]


def model(findings: Findings) -> str:
    """How good the model is on whole images."""
    full, interval = findings.peppr.summary()["full"], span(findings.intervals["full"])
    name = SCORES[findings.peppr.metric]
    weak = f" This is a weak model: below {WEAK} its maps say little." if full < WEAK else ""
    return f"On the {counted(findings.peppr.resampling)} judged the model's {name} is {full:.3f} {interval}.{weak}"


def counted(resampling: Mapping[str, Any]) -> str:
    """Write how many images there are, and of how many groups.

    Example:
        >>> counted({"unit": "groups", "units": 1, "images": 8}), counted({"unit": "images", "units": 8, "images": 8})
        ('8 images of 1 group', '8 images')
    """
    images = number_of(resampling["images"], "images")
    return images if resampling["unit"] == "images" else f"{images} of {number_of(resampling['units'], 'groups')}"


def uncertain(findings: Findings) -> list[str]:
    """What intervals are over, and what they leave out."""
    result, names = findings.peppr, findings.maps.labels
    lines = [resampling_line(result.resampling)]
    if int(result.resampling["units"]) > 1 and len(result.rare) == len(result.labels):
        lines = [f"Intervals: none, as no label has {FIRM} {result.resampling['unit']} of either kind."]
    elif result.rare:
        rare = ", ".join(names[label] for label in result.rare)
        lines.append(f"Too rare for the mean over labels and its interval, which take {FIRM} of either kind: {rare}.")
    return lines


def faithful(findings: Findings) -> str:
    """Whether the map ranks pixels better than chance."""
    numbers, intervals = findings.peppr.summary(), findings.intervals
    areas = ", ".join(f"{name} {numbers[key]:.3f}" for name, key in ORDERS.items())
    if intervals["random_minus_erase"][0] != intervals["random_minus_erase"][0]:
        return f"Without intervals nothing shows that the map is faithful (area under the erasing curve: {areas})."
    first, last = intervals["random_minus_erase"][0] > 0, intervals["reversed_minus_random"][0] > 0
    verdict = {
        (True, True): "The map is faithful at both ends: hiding what it calls important hurts more than hiding random "
        "pixels, and hiding what it calls unimportant hurts less",
        (True, False): "Hiding what the map calls important hurts more than hiding random pixels, but what it calls "
        "unimportant is not shown to matter less",
        (False, True): "Hiding what the map calls unimportant hurts less than hiding random pixels, but what it calls "
        "important is not shown to matter more",
        (False, False): "There is no evidence that the map ranks pixels better than chance",
    }[first, last]
    return f"{verdict} (area under the erasing curve: {areas})."


def enough(findings: Findings) -> str:
    """What fraction of the pixels suffices, and what that shows."""
    fraction, (low, high) = findings.peppr.summary()["sufficient"], findings.intervals["sufficient"]
    if fraction != fraction:
        score = SCORES[findings.peppr.metric]
        return f"The {score} of whole images is that of chance, or undefined: no fraction of the pixels suffices."
    size = f"{100 * fraction:.0f} % of the image suffices for 99 % of the {SCORES[findings.peppr.metric]}"
    claim = (
        "A new model was trained for every step, so this is about the information in the pixels."
        if findings.retrained
        else "This is about what this model uses; whether other pixels hold the same information takes "
        "global.retrain=true."
    )
    interval = "no interval" if low != low else f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    return f"The most important {size} ({interval}). {claim}"


def against_center(findings: Findings) -> str:
    """Whether the map beats the distance to the center, which does not depend on the model."""
    numbers = findings.peppr.summary()
    area, center = numbers["difference"], numbers["difference_center"]
    verdict = "The map beats" if area > center else "The map does not beat"
    return f"{verdict} the distance to the center: restored minus erased area {area:.3f} against {center:.3f}."


def stable(findings: Findings) -> list[str]:
    """Whether another sample of images would give the same map."""
    maps, value = findings.maps, findings.maps.overall_stability
    images = counted({"unit": maps.unit, "units": maps.units, "images": maps.images})
    if value is None:
        return [f"{images} are too few to say whether other images would give the same map."]
    verdict = "the same map" if value >= STABLE else "another map, so take more images before reading details"
    lines = [f"Two halves of the {images} give {verdict}: their rank correlation is {value:.2f}."]
    skipped = sum(findings.maps.skipped)
    if skipped:
        lines.append(f"{skipped} maps were all zero, or not finite, and left out.")
    return lines


def specific(findings: Findings) -> list[str]:
    """Whether each label's map is best for its own label."""
    matrix, names = findings.peppr.specificity(), findings.maps.labels
    labels = [names[k] for k in findings.peppr.labels]
    rows = [name for name in labels if name in matrix]
    if len(rows) < 3:  # of two exclusive classes what speaks for one speaks against the other
        return []
    best = [name for name in rows if max(rows, key=lambda row: matrix[row][labels.index(name)]) == name]
    return [f"For {len(best)} of {len(rows)} labels no other label's map does better than its own."]


def biased(findings: Findings) -> list[str]:
    """Which labels have maps outside of where the evidence can be."""
    wrong = [bias for bias in findings.biases if bias.found]
    if not wrong:
        return ["No label's map lies mostly outside of the region where evidence can be."]
    return [
        f"Look at {bias.label}: {100 * bias.outside:.0f} % of its map lies outside of the region where evidence can be "
        f"(a constant map: {100 * bias.chance:.0f} %)."
        for bias in wrong
    ]


def span(interval: tuple[float, float]) -> str:
    """Format an interval as text."""
    return "[none]" if interval[0] != interval[0] else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
