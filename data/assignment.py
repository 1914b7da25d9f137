"""Which image of a session is which channel, and what is wrong when that cannot be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import ChiasmError, InputError
from .patients import Recording
from .recognition import MASK, ChannelRule, Image, best_channels, is_label_map, is_mask, sidecar_words, stem

_CHOOSE = "Name the file in --manifest, or give the recipe's channel a rule that fits only one."
_MAX_LISTED = 4


def required_channels(rules: Mapping[str, ChannelRule]) -> list[str]:
    """Return the channels that a session must have, in the recipe's order."""
    return [name for name, rule in rules.items() if not rule.optional and name != MASK]


def assign(
    images: Sequence[Image], rules: Mapping[str, ChannelRule]
) -> tuple[tuple[Recording, ...], tuple[ChiasmError, ...]]:
    """Give each channel its image: by name, then by sidecar or series description, then as the only image there is.

    Returns
    -------
    recordings : tuple of Recording
        The claimed ones, in the order of the rules.
    problems : tuple of ChiasmError
        ``CHI-IN-062`` (several images for a channel), ``CHI-IN-063`` (none), ``CHI-IN-070`` (volumes of a 4-D file).
    """
    claims: dict[str, list[Image]] = {name: [] for name in (*rules, MASK)}
    rest: list[Image] = []
    for image in images:
        _claim_by_name(image, rules, claims, rest)
    missing = [name for name in required_channels(rules) if not claims[name]]
    if missing:
        rest = _claim_by_words(rest, {name: rules[name] for name in missing}, rules, claims)
        missing = [name for name in missing if not claims[name]]
    wanted = required_channels(rules)
    if len(rest) == 1 and missing == wanted:
        if len(wanted) == 1:
            claims[wanted[0]] = [rest[0]]
        elif len(rest[0].shape) >= 4:
            return _volumes_of_one_file(rest[0], wanted, claims)
    return _settle(claims, rules, images)


def _claim_by_name(
    image: Image, rules: Mapping[str, ChannelRule], claims: dict[str, list[Image]], rest: list[Image]
) -> None:
    name = stem(image.inner[-1])
    if image.kind == "nifti" and MASK not in rules and is_mask(name):
        claims[MASK].append(image)
        return
    if is_label_map(name) and not best_channels(name, rules):
        return
    # The nearest name counts: a file called t2 in a folder called t1_and_t2 is a T2.
    for part in (name, *reversed(image.inner[:-1])):
        found = best_channels(part, rules)
        if found:
            if is_label_map(name) and image.kind == "nifti":
                return  # t1_seg is the segmentation of the T1
            if len(found) == 1:
                claims[found[0]].append(image)
                return
    rest.append(image)


def _claim_by_words(
    rest: list[Image],
    wanted: Mapping[str, ChannelRule],
    rules: Mapping[str, ChannelRule],
    claims: dict[str, list[Image]],
) -> list[Image]:
    left = []
    for image in rest:
        words = image.words or (sidecar_words(image.files[0]) if image.kind == "nifti" else ())
        found = next((names for names in (best_channels(text, rules) for text in words) if len(names) == 1), [])
        if found and found[0] in wanted:
            claims[found[0]].append(image)
        else:
            left.append(image)
    return left


def _volumes_of_one_file(
    image: Image, wanted: Sequence[str], claims: Mapping[str, list[Image]]
) -> tuple[tuple[Recording, ...], tuple[ChiasmError, ...]]:
    count = image.shape[3]
    if count != len(wanted):
        problem = InputError(
            "CHI-IN-070",
            f"A 4-D file with {count} volumes, but the recipe has {len(wanted)} channels ({', '.join(wanted)}).",
            "Give one file a channel, or a file with one volume a channel in the recipe's order.",
            file=image.relative,
        )
        return (), (problem,)
    recordings = [recording(image, name, index) for index, name in enumerate(wanted)]
    recordings += [recording(mask, MASK) for mask in claims[MASK][:1]]
    return tuple(recordings), ()


def recording(image: Image, channel: str, volume_index: int | None = None) -> Recording:
    """Return the recording that an image becomes once its channel is known."""
    return Recording(
        channel=channel, kind=image.kind, files=image.files, relative=image.relative, volume_index=volume_index
    )


def _settle(
    claims: Mapping[str, list[Image]], rules: Mapping[str, ChannelRule], images: Sequence[Image]
) -> tuple[tuple[Recording, ...], tuple[ChiasmError, ...]]:
    recordings: list[Recording] = []
    problems: list[ChiasmError] = []
    missing = []
    for name, claimed in claims.items():
        if len(claimed) == 1:
            recordings.append(recording(claimed[0], name))
            problems.extend(claimed[0].problems)
        elif claimed:
            problems.append(several(name, claimed))
        elif name in required_channels(rules):
            missing.append(name)
    if missing:
        problems.append(lacking(missing, [r.channel for r in recordings], images))
    return tuple(recordings), tuple(problems)


def several(channel: str, claimed: Sequence[Image]) -> InputError:
    """Return the error for a channel with more than one image and no rule to choose."""
    ordered = sorted(claimed, key=lambda image: image.relative)
    listed = ", ".join(image.relative for image in ordered[:_MAX_LISTED])
    more = f" and {len(ordered) - _MAX_LISTED} more" if len(ordered) > _MAX_LISTED else ""
    number = "two" if len(ordered) == 2 else str(len(ordered))
    return InputError(
        "CHI-IN-062", f"{number} {channel}: {listed}{more}; no rule to choose.", _CHOOSE, file=ordered[0].relative
    )


def lacking(missing: Sequence[str], found: Sequence[str], images: Sequence[Image]) -> InputError:
    """Return the error for channels without an image."""
    have = f"found {', '.join(found)}" if found else "found no other channel"
    plural = "channels are" if len(missing) > 1 else "channel is"
    return InputError(
        "CHI-IN-063",
        f"The {plural} missing: {', '.join(missing)}; {have} among {len(images)} image(s).",
        "Add the file, name it by the channel's keywords, or list it in --manifest.",
        file=images[0].relative if images else "",
    )
