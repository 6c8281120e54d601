"""Videos and cameras: frames in order, decoded and written while the model works."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.inference import video as video_module
from mmdet_dinov2.inference.detector import Detector, ImagePrediction
from mmdet_dinov2.inference.file_predictions import FilePredictor
from mmdet_dinov2.inference.image_inputs import expand_inputs
from mmdet_dinov2.inference.overlapped import CallsBehind, read_ahead, threads_beside
from mmdet_dinov2.inference.prediction_files import PredictionFiles, VideoFile
from mmdet_dinov2.inference.video import Video

from ..tools import failure_of

PIPELINE = (
    dict(type='mmdet_dinov2.LoadImageFromFile'),
    dict(type='Resize', scale=(64, 32), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
)


def frame_of(number):
    """A frame whose halves say its number, in sixteenths and units."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32], frame[:, 32:] = 12 * (number // 16), 16 * (number % 16)
    return frame


class ReadsNumbers(nn.Module):
    """Stands for a model: the label is 0, and the box begins at the number of the frame."""

    def test_step(self, data):
        samples = []
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            sixteenths, units = (half.float().mean().item() for half in image.chunk(2, 2))
            number = 16 * round(sixteenths / 12) + round(units / 16)
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[number, 0, number + 1, 1.0]]),
                labels=torch.zeros(1, dtype=torch.long),
                scores=torch.ones(1),
            )
            samples.append(sample)
        return samples


def write_video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 32))
    for number in range(count):
        writer.write(frame_of(number))
    writer.release()
    return path


def start_of_frame(path, number):
    """Where the picture of a frame begins, with the first bytes of a JPEG file."""
    start = -1
    for _ in range(number + 1):
        start = path.read_bytes().index(b'\xff\xd8\xff', start + 1)
    return start


def predict(source, out, detector=None, batch_size=1, stride=1):
    """Predicts; returns the predictor, and the numbers of frames by their names."""
    detector = detector or Detector(ReadsNumbers(), PIPELINE, ('cat',))
    out.mkdir()
    results = PredictionFiles(out, detector.classes)
    predictor = FilePredictor(detector, results, out / 'pictures', batch_size, 0.0, stride)
    predictor.predict(expand_inputs([str(source)]))
    results.close()
    images = json.loads((out / 'images.json').read_text())['images']
    boxes = {r['image_id']: r['bbox'] for r in json.loads((out / 'predictions.json').read_text())}
    return predictor, {image['file_name']: round(boxes[image['id']][0]) for image in images}


@pytest.mark.parametrize(('batch_size', 'stride'), [(1, 1), (4, 7)])
def test_300_frames_in_order(tmp_path, batch_size, stride):
    video = write_video(tmp_path / 'a.avi', 300)
    predictor, found = predict(video, tmp_path / 'out', batch_size=batch_size, stride=stride)
    numbers = range(0, 300, stride)
    assert list(found.items()) == [(f'a.avi/{number:06d}', number) for number in numbers]
    assert predictor.num_images == len(numbers)
    assert not predictor.warnings and not predictor.problems and not predictor.not_drawn
    (speed,) = predictor.speeds
    assert speed.startswith(f'a.avi: {len(numbers)} frames, ') and 'frames per second' in speed
    drawn = cv2.VideoCapture(str(tmp_path / 'out/pictures/a.avi.mp4'))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == len(numbers)
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(10 / stride, rel=0.01)


def test_a_playlist_is_no_video(tmp_path):
    secret = write_video(tmp_path / 'secret.avi', 5)
    playlist = '#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n'
    for text in (playlist, 'ffconcat version 1.0\nfile secret.avi\n'):
        (tmp_path / 'clip.mp4').write_text(text.format(secret))
        with pytest.raises(InputError, match='clip.mp4 is not a valid video'):
            Video(tmp_path / 'clip.mp4')
    assert len(list(Video(secret))) == 5


def test_frames_of_too_many_pixels(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'a.avi', 2)
    monkeypatch.setattr(video_module, 'MAX_PIXELS', 1000)
    with pytest.raises(InputError, match='a.avi has frames of .* pixels, more than 1000'):
        Video(path)


def test_a_broken_frame_is_a_warning(tmp_path):
    path = write_video(tmp_path / 'a.avi', 40)
    data, start = bytearray(path.read_bytes()), start_of_frame(path, 20)
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    predictor, found = predict(path, tmp_path / 'out')
    assert list(found.values()) == [number for number in range(40) if number != 20]
    assert list(found) == [f'a.avi/{number:06d}' for number in found.values()]
    assert not predictor.problems
    assert predictor.warnings == [
        f'{path}: 1 of 40 frames could not be read, the first one is number 20 (it cannot be '
        'decoded)'
    ]


def test_a_video_that_ends_before_its_header_says(tmp_path):
    path = write_video(tmp_path / 'a.avi', 40)
    path.write_bytes(path.read_bytes()[: start_of_frame(path, 15)])
    predictor, found = predict(path, tmp_path / 'out')
    assert list(found.values()) == list(range(15)) and not predictor.problems
    (warning,) = predictor.warnings
    assert '25 of 40 frames could not be read, the first one is number 15' in warning


class Camera:
    """Stands for OpenCV's: camera 0 gives three frames."""

    def __init__(self, index):
        self.index, self.frames = index, [frame_of(number) for number in (5, 6, 7)]

    def isOpened(self):
        return self.index == 0

    def get(self, key):
        return 0.0

    def grab(self):
        return bool(self.frames)

    def retrieve(self):
        return True, self.frames.pop(0)

    def release(self):
        pass


def test_cameras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmdet_dinov2.inference.video.cv2.VideoCapture', Camera)
    predictor, found = predict('0', tmp_path / 'out')
    assert found == {'camera_0/000000': 5, 'camera_0/000001': 6, 'camera_0/000002': 7}
    assert (tmp_path / 'out/pictures/camera_0.mp4').stat().st_size > 0
    assert not predictor.warnings and not predictor.problems
    predictor, _ = predict('7', tmp_path / 'out7')
    assert predictor.problems == ['camera 7 cannot be opened; cameras count from 0']
    (tmp_path / '0').mkdir()
    write_video(tmp_path / '0/a.avi', 3)
    assert [file.name for file in expand_inputs(['0'])] == ['a.avi']


class Overlapping:
    """Stands for a detector and its writer, who wait until the frames after theirs have come."""

    classes = ('cat',)

    def __init__(self, count):
        self.count = count
        self.read, self.taken = threading.Semaphore(0), threading.Semaphore(0)

    def predict_each(self, frames, **options):
        for number, frame in enumerate(frames):
            # The frames up to the next one were read, and this one is taken.
            assert number + 1 == self.count or self.read.acquire(timeout=20)
            if number:
                self.taken.release()
            yield ImagePrediction(frame, sample=object())
        self.taken.release()

    def write_frame(self, *frame):
        # The frame after this one was taken by the model.
        assert self.taken.acquire(timeout=20)


def test_decoding_and_writing_overlap_with_the_model(tmp_path, monkeypatch):
    detector, iterate = Overlapping(10), Video.__iter__

    def noted(self):
        for number, frame in iterate(self):
            if number:
                detector.read.release()
            yield number, frame

    monkeypatch.setattr(Video, '__iter__', noted)
    monkeypatch.setattr(FilePredictor, '_write_frame', detector.write_frame)
    video = write_video(tmp_path / 'a.avi', 10)
    results = PredictionFiles(tmp_path / 'out', detector.classes)
    FilePredictor(detector, results).predict(expand_inputs([str(video)]))
    assert not detector.read.acquire(blocking=False) and not detector.taken.acquire(blocking=False)


def test_reading_ahead():
    taken = []

    def items():
        for number in range(6):
            taken.append(number)
            yield number
        raise OSError('the end')

    found = []
    with pytest.raises(OSError, match='the end'):
        found.extend(read_ahead(items(), 3))
    ahead = read_ahead(items(), 2)
    taken.clear()
    assert next(ahead) == 0
    ahead.close()
    assert len(taken) <= 3
    assert list(read_ahead([], 2)) == [] and list(read_ahead('abcd', 2)) == list('abcd')


def test_calls_behind():
    done = []
    with CallsBehind(2) as call:
        for number in range(20):
            call(done.append, number)
    assert done == list(range(20))
    with pytest.raises(KeyboardInterrupt), CallsBehind(5) as call:
        call(done.append, 'last')
        raise KeyboardInterrupt
    assert done.pop() == 'last'  # what was handed over is done

    def fail():
        raise OSError('the disk is full')

    with pytest.raises(OSError, match='the disk is full'), CallsBehind(5) as call:
        call(fail)
        call(done.append, 'after the failure')
    assert done == list(range(20))


def test_a_stride_that_cannot_be(capfd):
    message = failure_of(capfd, 'predict', 'model', 'a.mp4', '--stride', 0)
    assert '--stride must be at least 1, but is 0' in message


def test_frames_have_no_ids_in_an_annotation_file(tmp_path, capfd):
    video = write_video(tmp_path / 'a.avi', 2)
    (tmp_path / 'a.json').write_text('{"images": [], "annotations": [], "categories": []}')
    message = failure_of(
        capfd, 'predict', 'model', video, '--ann', tmp_path / 'a.json', '--out', tmp_path / 'out'
    )
    assert f'but {video} is a video or a camera; leave --ann out' in message


@pytest.mark.parametrize('fps', [29.97, 119.911, 239.823, 1000 / 7])
def test_a_video_of_any_frame_rate_can_be_written(tmp_path, fps):
    file = VideoFile(tmp_path / 'a.mp4', fps)
    for _ in range(3):
        file.append(np.zeros((48, 64, 3), np.uint8))
    file.close()
    assert cv2.VideoCapture(str(tmp_path / 'a.mp4')).get(cv2.CAP_PROP_FPS) == pytest.approx(
        fps, rel=0.005
    )


def test_threads_beside_a_model_use_one_core_each():
    def number_of_threads():
        torch.zeros(10**6).exp_()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with threads_beside(2) as pool:
            calls = [pool.submit(number_of_threads) for _ in range(4)]
            assert [call.result() for call in calls] == [1] * 4
            assert number_of_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(number_of_threads).result() == 3
    finally:
        torch.set_num_threads(before)
