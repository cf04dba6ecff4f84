"""Folders that should be alike."""

import filecmp


def files(folder):
    """The paths of all files in a folder, from there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def compare(wanted, found):
    """Every file of one folder is in the other with the same bytes, and no others are. How many there are."""
    lacking, more = files(wanted) - files(found), files(found) - files(wanted)
    assert not lacking, f"lacking: {sorted(lacking)[:10]} ({len(lacking)})"
    assert not more, f"there, though it should not be: {sorted(more)[:10]} ({len(more)})"
    wrong = [name for name in files(wanted) if not filecmp.cmp(wanted / name, found / name, shallow=False)]
    assert not wrong, f"other bytes: {wrong[:10]} ({len(wrong)})"
    return len(files(wanted))
