"""Names of pictures."""

from mmdet_dinov2.drawing.picture_names import PictureNames


def test_images_of_one_name_get_different_pictures():
    names = PictureNames()
    assert names.name_of('one/a.jpg', 'a.jpg') == 'a.jpg'
    assert names.name_of('two/a.jpg', 'a.jpg') == 'a_2.jpg'
    assert names.name_of('a_2.jpg', 'a_2.jpg') == 'a_2_2.jpg'
    assert names.name_of('three/a.jpg', 'a.jpg') == 'a_3.jpg'
    assert names.name_of('two/a.jpg', 'a.jpg') == 'a_2.jpg'  # keeps its name
