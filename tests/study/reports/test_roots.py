"""Where committed notebooks are checked."""

from lib.study import paths
from lib.study.reports.roots import reference_root


def test_the_reference_is_laid_out_for_nbval(tmp_path):
    made = reference_root(tmp_path / "nbval")
    assert (made / "notebooks" / "profiles" / "embedded.yaml").is_file()
    assert (made / "data" / "results" / "embedded" / "scores.json").is_file()
    assert not (made / "figures").exists()
    reference_root(made)
    assert (paths.ROOT / "data" / "results").is_dir(), "links are removed, not what they lead to"
