"""What the numbers of global maps and PEPPR say, in plain words."""

from dataclasses import dataclass, field

from torch import Tensor

from lightning_xai.global_maps import GlobalMapsResult, PEPPRResult
from lightning_xai.global_maps.bias_finder import Bias
from lightning_xai.global_maps.result import SCORES

#: Below this AUC a model is too weak for its maps to mean much.
WEAK = 0.7
#: Rank correlation of the maps of two halves above which a map is the same for other images.
STABLE = 0.8
#: Orders of erasing, and the number that holds the area of each.
ORDERS = {"most important first": "area_erase", "random": "area_random", "least important first": "area_reversed"}


@dataclass(frozen=True)
class Findings:
    """Everything that ``task=global`` found out.

    Attributes:
        maps: The global maps.
        peppr: PEPPR of the overall map, and of each label's.
        intervals: 95 % intervals of the numbers of ``peppr.summary()``.
        region: Bool ``(*S)``, where evidence can be.
        biases: How much of each label's map lies outside.
        retrained: Whether each step of PEPPR had a model of its own.
    """

    maps: GlobalMapsResult
    peppr: PEPPRResult
    intervals: dict[str, tuple[float, float]]
    region: Tensor = field(repr=False)
    biases: list[Bias]
    retrained: bool = False


def reading(found: Findings) -> list[str]:
    """Sentences for the top of the page, the caveats included."""
    return [
        model(found),
        faithful(found),
        enough(found),
        against_center(found),
        *stable(found),
        *own(found),
        *biased(found),
    ]


def model(found: Findings) -> str:
    """How good the model is on whole images."""
    full, interval = found.peppr.summary()["full"], span(found.intervals["full"])
    name = SCORES[found.peppr.metric]
    weak = f" This is a weak model: below {WEAK} its maps say little." if full < WEAK else ""
    return f"On the {len(found.peppr.truth)} judged images the model's {name} is {full:.3f} {interval}.{weak}"


def faithful(found: Findings) -> str:
    """Whether the map ranks pixels better than chance."""
    numbers, intervals = found.peppr.summary(), found.intervals
    first, last = intervals["random_minus_erase"][0] > 0, intervals["reversed_minus_random"][0] > 0
    areas = ", ".join(f"{name} {numbers[key]:.3f}" for name, key in ORDERS.items())
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


def enough(found: Findings) -> str:
    """What fraction of the pixels suffices, and of what that is evidence."""
    fraction, (low, high) = found.peppr.summary()["sufficient"], found.intervals["sufficient"]
    size = f"{100 * fraction:.0f} % of the image suffices for 99 % of the {SCORES[found.peppr.metric]}"
    claim = (
        "A new model was trained for every step, so this is about the information in the pixels."
        if found.retrained
        else "This is about what this model uses; whether other pixels hold the same information takes "
        "global.retrain=true."
    )
    return f"The most important {size} (95 % interval {100 * low:.0f} to {100 * high:.0f} %). {claim}"


def against_center(found: Findings) -> str:
    """Whether the map beats the distance to the center, which knows nothing of the model."""
    numbers = found.peppr.summary()
    own, center = numbers["difference"], numbers["difference_center"]
    verdict = "The map beats" if own > center else "The map does not beat"
    return f"{verdict} the distance to the center: restored minus erased area {own:.3f} against {center:.3f}."


def stable(found: Findings) -> list[str]:
    """Whether another sample of images would give the same map."""
    value, images = found.maps.overall_stability, found.maps.images
    if value is None:
        return [f"{images} images are too few to say whether other images would give the same map."]
    verdict = "the same map" if value >= STABLE else "another map, so take more images before reading details"
    lines = [f"Two halves of the {images} images give {verdict}: their rank correlation is {value:.2f}."]
    skipped = sum(found.maps.skipped)
    if skipped:
        lines.append(f"{skipped} maps were all zero, or not finite, and left out.")
    return lines


def own(found: Findings) -> list[str]:
    """Whether each label's map is best for its own label."""
    matrix, names = found.peppr.specificity(), found.maps.labels
    labels = [names[k] for k in found.peppr.labels]
    rows = [name for name in labels if name in matrix]
    if len(rows) < 3:  # of two exclusive classes what speaks for one speaks against the other
        return []
    best = [name for name in rows if max(rows, key=lambda row: matrix[row][labels.index(name)]) == name]
    return [f"For {len(best)} of {len(rows)} labels no other label's map does better than its own."]


def biased(found: Findings) -> list[str]:
    """Which labels are read off the wrong place."""
    wrong = [bias for bias in found.biases if bias.found]
    if not wrong:
        return ["No label's map lies mostly outside of the region where evidence can be."]
    return [
        f"Look at {bias.label}: {100 * bias.outside:.0f} % of its map lies outside of the region where evidence can be "
        f"(a constant map: {100 * bias.chance:.0f} %)."
        for bias in wrong
    ]


def span(interval: tuple[float, float]) -> str:
    """An interval as text."""
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"
