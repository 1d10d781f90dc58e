"""How missing rates are spelled in a protocol."""

import pytest

from benchmark.errors import UserError
from benchmark.missing import spelled

NAMES = ['rgb', 'depth', 'ir']
MIXED = 'rgb=0.2,depth=0.5,ir=0.8'


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (['complete', '0', '', 'rgb=0,depth=0,ir=0', '0.5'], ['', '0.5']),
        (['0.5', 'rgb=0.5,depth=0.5,ir=0.5', ' .50 '], ['0.5']),
        (['ir=0.8,rgb=0.2,depth=0.5'], [MIXED]),
        (['0.3,rgb=0'], ['depth=0.3,ir=0.3']),
        (['1', 'rgb=1.0,ir=0.25'], ['1', 'rgb=1,ir=0.25']),
    ],
)
def test_equal_settings_are_spelled_alike(given, expected):
    assert spelled(given, NAMES, 'faces') == expected


@pytest.mark.parametrize(
    ('given', 'told'),
    [
        (['rgbb=0.5'], "--gaps on faces: .* did you mean 'rgb'?"),
        (['0.5', '1.5'], "expected a missing rate from 0 to 1, found '1.5'"),
        (['all'], "found 'all'"),
        (['complete', '0'], 'expected some missing rate above 0'),
    ],
)
def test_a_setting_that_fits_no_modality_is_one_line(given, told):
    with pytest.raises(UserError, match=told) as error:
        spelled(given, NAMES, 'faces')
    assert '\n' not in str(error.value)
