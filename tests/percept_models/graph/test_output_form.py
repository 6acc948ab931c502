"""The form of an output says where its classes and cells are."""

import numpy as np
import pytest

from percept.errors import BundleError
from percept_models.graph.output_form import Form, form_of_output, forms_of_output

SIZE = (32, 48)
# The shape of an output → the axis of its classes and its cells, and the shape in which they are arranged.
FORMS = {
    (2,): (None, (), (2, 1)),
    (2, 5): (1, (), (2, 5)),
    (2, 1): (1, (), (2, 1)),
    (2, 1, 5): (2, (), (2, 5)),
    (2, 5, 1, 1): (1, (), (2, 5)),
    (2, 1, 1, 5): (3, (), (2, 5)),
    (2, 8, 12): (None, (1, 2), (2, 1, 8, 12)),
    (2, 5, 8, 12): (1, (2, 3), (2, 5, 8, 12)),
    (2, 8, 12, 5): (3, (1, 2), (2, 5, 8, 12)),
    (2, 1, 8, 12): (1, (2, 3), (2, 1, 8, 12)),
}


@pytest.mark.parametrize("shape", FORMS)
def test_output_is_arranged_and_restored(shape: tuple[int, ...]) -> None:
    classes, cells, arranged = FORMS[shape]
    form = form_of_output(shape, SIZE)
    assert form == Form(shape, classes, cells)
    y = np.arange(np.prod(shape)).reshape(shape)
    assert form.arrange(y).shape == arranged
    np.testing.assert_array_equal(form.restore(form.arrange(y)), y)


def test_classes_last_are_moved() -> None:
    y = np.random.default_rng(0).random((2, 8, 12, 5))
    np.testing.assert_array_equal(form_of_output(y.shape, SIZE).arrange(y), y.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(2, 8, 16), (2, 12, 8), (2, 3, 4, 5, 6), ()])
def test_shape_of_no_output_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match=r"is neither \[N,K\] nor \[N,K,h,w\]"):
        form_of_output(shape, SIZE)


def test_both_places_of_the_classes_are_possible() -> None:
    shapes = [form.classes for form in forms_of_output((2, 4, 4, 4), (8, 8))]
    assert shapes == [1, 3]
    assert [form.classes for form in forms_of_output((2, 4, 4, 4), (8, 8), channels_last=True)] == [3, 1]
    assert [form.classes for form in forms_of_output((2, 9, 4, 4), (8, 8))] == [1]
