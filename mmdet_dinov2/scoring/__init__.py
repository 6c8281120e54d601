"""What detections are worth: matches with boxes, COCO's evaluation, results, pictures."""
