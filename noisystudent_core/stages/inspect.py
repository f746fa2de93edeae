"""What is in sets of images: counts, sizes, formats, repeats, and evaluation images among those for training."""

import json
from base64 import b64encode
from collections import Counter

from noisystudent_core.config.data import InspectConfig
from noisystudent_core.evaluation import galleries, inspection_page, inspection_tables
from noisystudent_core.evaluation.contact_sheet import contact_sheet
from noisystudent_core.evaluation.inspection import Inspection, Summary
from noisystudent_core.events import Events
from noisystudent_core.stages.inspect_pictures import Strata, classes_of, pairs, samples
from noisystudent_core.stages.inspect_repeats import ImageSet, class_names, find_repeats, image_sets
from noisystudent_core.storage.manifest import Inputs, publish_part
from noisystudent_core.storage.stage import Place, Written, stage


@stage
def inspect(config: InspectConfig, inputs: Inputs, place: Place, events: Events) -> Written:
    """Write inspection.md, inspection.html and inspection.json on sets of images, and report figures.

    Inputs: each set under its name, "labelled", "unlabelled", "validation", "test", or "images" for any other, and
    beside it "inspection NAME", what `inspect_parts` kept of its images. Facts: `leaks`, how many evaluation images
    are among those for training by equal bytes, and `findings` in words. Raises `DataError` for an inspection of other
    images.
    """
    sets = image_sets(inputs)
    strata = {each.name: Strata(len(each.images.manifest.parts), each is classes_of(sets)) for each in sets}
    summaries = [_summary(each, strata[each.name], events) for each in sets]
    repeats = find_repeats(config, sets, place.scratch)
    place.scratch.remove_all()
    names = class_names(sets, sum((summary.class_counts for summary in summaries), Counter[int]()))
    found = Inspection(
        config=config,
        sets=summaries,
        class_names=names,
        repeated=repeats.repeated,
        shared=[pair for pair in repeats.shared.values() if pair.num_images],
        look_alikes=repeats.look_alikes,
        near=repeats.near,
    )
    counts = next(summary.class_counts for summary in summaries if summary.name == classes_of(sets).name)
    gallery, alike = samples(config, sets, strata, counts, names), pairs(repeats, sets, names, inputs)
    drawn = {"samples": galleries.png(gallery)} if gallery else {}
    if alike:
        some = [pair for of_relation in alike.values() for pair in of_relation]
        drawn["pairs"] = contact_sheet("Taken for the same image", f"{len(some)} pairs", some)
    for name, png in drawn.items():
        events("figure", name=name, png=b64encode(png).decode())
    told = found.as_json()
    files = {
        "inspection.md": inspection_tables.markdown(found).encode(),
        "inspection.html": inspection_page.html(found, gallery, alike).encode(),
        "inspection.json": (json.dumps(told, indent=1) + "\n").encode(),
    }
    parts = tuple(publish_part(place.folder, path, data, 0) for path, data in files.items())
    return Written(parts, facts={"leaks": told["leaks"], "findings": told["findings"]})


def _summary(each: ImageSet, strata: Strata, events: Events) -> Summary:
    summary = Summary(name=each.name, url=each.images.url)
    for part in range(len(each.rows.manifest.parts)):
        table = each.table(part)
        summary.add(table)
        strata.add(part, table)
        events("progress", done=part + 1, total=len(each.rows.manifest.parts), unit=f"parts of {each.name}")
    return summary
