"""The order of the blocks of a table."""

from made_records import make_outcomes, make_record

from benchmark.report import grouping

SUBSETS = ('rgb', 'depth', 'rgb+depth')


def record(number, train, rates='', epochs=10):
    found = make_record('m', 0, make_outcomes(dict.fromkeys(SUBSETS, 5)))
    found['dataset'] = {**found['dataset'], 'options': {'train': train} if train else {}}
    found['protocol'] = {**found['protocol'], 'rates': rates, 'epochs': epochs}
    return {**found, 'protocol_id': f'id-{number}'}


def test_blocks_stand_in_the_order_of_what_differs_between_them():
    said = [(900, '', 10), (100, '', 40), (None, '', 10), (100, 'rgb=0.9', 40), (100, '', 5)]
    said += [(100, 'rgb=0.1', 40), (20, '', 10)]
    found = grouping.blocks(record(i, *one) for i, one in enumerate(said))
    assert [
        (r['dataset']['options'].get('train'), r['protocol']['rates'], r['protocol']['epochs'])
        for (r,) in found
    ] == [
        (20, '', 10),
        (100, '', 5),
        (100, '', 40),
        (100, 'rgb=0.1', 40),
        (100, 'rgb=0.9', 40),
        (900, '', 10),
        (None, '', 10),
    ]
