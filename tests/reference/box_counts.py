"""Which boxes are used in training, one by one; for comparison with the columns."""

from collections import Counter, defaultdict


def count_boxes(images, categories, annotations, classes, min_size=0):
    """Returns a dict with the fields of ``BoxCounts`` and ``trained_on`` of every annotation."""
    by_id = {image['id']: image for image in images}
    names = {category['id']: category['name'] for category in categories}
    dropped, other, per_class, per_image = Counter(), Counter(), Counter(), Counter()
    examples, trained = defaultdict(list), []
    crowd = filtered = 0
    for annotation in annotations:
        image = by_id.get(annotation['image_id'])
        reason = reason_to_drop(annotation, image)
        trained.append(not reason and not annotation.get('iscrowd', 0))
        name = names.get(annotation['category_id'])
        if reason:
            where = f'image id {annotation["image_id"]!r}' if image is None else image['file_name']
            dropped[reason] += 1
            if image is not None:
                where = repr(where)
            if len(examples[reason]) < 5:
                examples[reason].append(f'id {annotation["id"]!r} on {where}')
        elif name not in classes:
            other[name or f'id {annotation["category_id"]}, which the file does not list'] += 1
        elif annotation.get('iscrowd', 0):
            crowd += 1
        else:
            per_class[name] += 1
            if min(image['width'], image['height']) < min_size:
                filtered += 1
            else:
                per_image[annotation['image_id']] += 1
    worst = max(per_image, key=per_image.get, default=None)
    ids = [image['id'] for image in images]
    return dict(
        usable=per_image.total(),
        dropped=dropped,
        examples=dict(examples),
        other_category=other,
        crowd=crowd,
        filtered=filtered,
        per_class=per_class,
        per_image=[per_image[key] for key in ids],
        fullest=-1 if worst is None else ids.index(worst),
        trained_on=trained,
    )


def reason_to_drop(annotation, image):
    """Returns why mmdet drops a box of a known category, or an empty string."""
    if image is None:
        return 'on images that the file does not list'
    if annotation.get('ignore'):
        return "marked 'ignore'"
    x, y, w, h = annotation['bbox']
    if w <= 0 or h <= 0:
        return 'of zero or negative size'
    if w < 1 or h < 1:
        if min(x, y) >= 0 and max(x + w, y + h) <= 1:
            return 'between 0 and 1, as fractions of the image'
        return 'with a side below 1 pixel'
    if min(x + w, image['width']) <= max(x, 0) or min(y + h, image['height']) <= max(y, 0):
        return 'outside the image'
    if annotation.get('area', w * h) <= 0:
        return "with an 'area' of 0 or less"
    return ''


def looks_normalised(annotations):
    """Returns whether all boxes lie between 0 and 1."""
    boxes = [annotation['bbox'] for annotation in annotations]
    return any(w > 0 and h > 0 for _, _, w, h in boxes) and all(
        min(x, y, w, h) >= 0 and max(x + w, y + h) <= 1.001 for x, y, w, h in boxes
    )


def look_like_corners(images, annotations):
    """Returns whether the boxes look like corners."""
    by_id = {image['id']: image for image in images}
    beyond = total = 0
    for annotation in annotations:
        image = by_id.get(annotation['image_id'])
        if image is None:
            continue
        x, y, x2, y2 = annotation['bbox']
        width, height = image['width'], image['height']
        if x < 0 or y < 0 or x2 < x or y2 < y or x2 > width + 1 or y2 > height + 1:
            return False
        total += 1
        beyond += x + x2 > width + 1 or y + y2 > height + 1
    return total > 0 and beyond > total / 2
