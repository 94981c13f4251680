"""Any document at all is read, or refused in one line that names the file."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.study.data import Example, read_karpathy
from tests.study.data.test_captions import coco
from tests.study.data.test_coco import put

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["test", "\ud800", "a.jpg", "../a.jpg", "/a.jpg", "C:\\a.jpg"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["raw", "tokens"]), inner, max_size=2)
    ),
    max_leaves=6,
)
images = st.lists(
    st.fixed_dictionaries(
        {"split": st.just("test") | values},
        optional={
            "filename": st.just("a.jpg") | values,
            "filepath": st.just("val2014") | values,
            "cocoid": st.integers(0, 9) | values,
            "imgid": values,
            "sentences": st.lists(
                st.fixed_dictionaries({"raw": st.just("a dog") | values}), max_size=2
            )
            | values,
            "objects": values,
        },
    )
    | values,
    max_size=3,
)
ANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.filterwarnings("ignore:.*dropped blank captions")
@ANY
@given(images)
def test_any_document_is_read_or_refused_by_name(tmp_path, images):
    path = put(tmp_path / "d.json", json.dumps({"images": images}).encode())
    try:
        examples = read_karpathy(path, "test", check_files=False)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    for example in examples:
        assert isinstance(example, Example) and isinstance(example.image_id, int)
        assert example.references and all(t.strip() == t for t in example.references)
        "".join(example.references).encode()
        assert tmp_path in example.path.parents and ".." not in example.path.parts


@pytest.mark.filterwarnings("ignore:.*dropped blank captions")
@ANY
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"id": st.integers(0, 3) | values, "file_name": st.just("a.jpg") | values}
        )
    ),
    st.lists(
        st.fixed_dictionaries(
            {"caption": st.just("a dog") | values},
            optional={"image_id": st.integers(0, 3) | values},
        )
    )
    | values,
)
def test_any_document_of_coco_s_is_read_or_refused_by_name(tmp_path, images, annotations):
    try:
        examples = coco(tmp_path, images, annotations)
    except ValueError as error:
        assert "captions_val2014.json" in str(error) and "\n" not in str(error)
        return
    assert all(isinstance(example, Example) and example.references for example in examples)
