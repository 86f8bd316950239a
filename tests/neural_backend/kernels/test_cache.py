import os

from neural_backend.kernels import cache


def test_versions_have_folders_of_their_own_and_the_oldest_go(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    found = []
    for number in range(10):
        found.append(cache.folder("loops", str(number)))
        (found[-1] / "kept").write_bytes(b"")
        os.utime(found[-1], (number, number))
    again = cache.folder("loops", "2")
    assert again == found[2]
    assert (again / "kept").exists()
    last = cache.folder("loops", "new")
    assert not found[3].exists()
    assert all(each.exists() for each in (last, again, found[9]))
