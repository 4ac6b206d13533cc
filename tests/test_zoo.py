"""The zoo: few BatchNormalizations stay, each for a reason that is final, and nothing gets less exact."""

from __future__ import annotations

import json

import pytest

from tests import zoo
from tests.small_nets import NETS
from tests.zoo_models import LEFT, MORE

SMALL = {  # BatchNormalization before and after
    "dcgan_generator": (3, 0),
    "unet": (12, 2),  # after a Concat with a Relu, before a Conv that pads
    "resnet3d": (9, 0),
    "pointnet": (7, 0),
    "tdnn": (5, 1),  # between a Relu and the deviation over time
    "tabular": (3, 0),
    "crnn": (2, 0),
    "deeplab_frozen": (0, 0),
}
GONE = (
    "repvgg_a0 mobileone_s0 repghostnet_050 levit_128s mixnet_s repvit_m0_9 fastvit_t8 visformer_tiny "
    "inception_next_tiny swiftformer_xs pnasnet5large efficientvit_m0 shvit_s1 starnet_s1 efficientformerv2_s0 "
    "botnet26t_256 halonet26t haloregnetz_b"
)
MOST_KEPT, PEERS_KEEP = 215, 500


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo")


def assert_as_exact(row: zoo.Row) -> None:
    """Verified, and within the limits of `zoo.LIMITS`; a model in which nothing was folded has nothing to verify."""
    assert row.problem == ""
    assert row.verdict == "PASS"
    assert row.errors.keys() == zoo.LIMITS.keys()
    assert all(row.errors[kind] <= limit for kind, limit in zoo.LIMITS.items())


@pytest.mark.parametrize("name", SMALL)
def test_a_small_net(name, cache):
    row = zoo.measured(name, cache, peers=False, verify=True)
    assert_as_exact(row)
    assert row.batch_norms == SMALL[name]
    assert row.reasons.keys() <= zoo.FINAL.keys()


def test_every_small_net_is_tested():
    assert SMALL.keys() == NETS.keys()


def test_the_decomposed_normalizations_are_folded(cache):
    row = zoo.measured("deeplab_frozen", cache, peers=False, verify=False)
    assert row.others == (14, 0)
    assert row.nodes == (82, 19)


def test_a_model_that_cannot_be_built_is_listed(capsys, tmp_path):
    assert zoo.main(["no_such_net", "--cache", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "| no_such_net |" in output
    assert "Unknown model (no_such_net)" in output
    assert "0 of 1 measured" in output


def test_the_table_and_its_record(capsys, cache, tmp_path):
    path = tmp_path / "zoo.json"
    assert zoo.main(["tdnn", "--peers", "--cache", str(cache), "--json", str(path)]) == 0
    output = capsys.readouterr().out
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["batch_norms"], row["best_peer"]) == ([5, 1], 5)
    assert "| tdnn | 5 | 1 | 5 | 24 | 20 |" in output
    assert "Relu(Conv1) -> BatchNormalization -> " in output
    assert "all models: 1 of 1 measured, 5 BatchNormalization, 1 kept, best peer 5" in output


@pytest.mark.zoo
@pytest.mark.parametrize("name", [*LEFT, *MORE])
def test_an_architecture(name):
    row = zoo.measured(name, zoo.CACHE, peers=False, verify=True)
    assert_as_exact(row)
    assert row.batch_norms[1] == 0 or name not in GONE.split()
    assert row.reasons.keys() <= zoo.FINAL.keys()


@pytest.mark.zoo
def test_less_is_kept_than_peers_keep():
    rows = [zoo.measured(name, zoo.CACHE, peers=True, verify=False) for name in LEFT]
    assert all(row.problem == "" and row.best_peer for row in rows)
    assert sum(row.best_peer for row in rows) >= PEERS_KEEP
    assert sum(row.batch_norms[1] for row in rows) <= MOST_KEPT
