"""Files of predictions of other code: what is read, and what is refused in one line."""

import numpy as np
import pytest
from made_records import make_outcomes, make_record

from benchmark.errors import UserError
from benchmark.records import prediction_files as files

ABOUT = {'method': 'net', 'dataset': 'faces', 'seed': 3, 'id': ['a', 'b'], 'pred/rgb': [0, 1]}


def archive(folder, **changes):
    """An archive; None leaves a key out."""
    arrays = {k: np.array(v) for k, v in {**ABOUT, **changes}.items() if v is not None}
    np.savez(folder / 'x.npz', **arrays)
    return folder / 'x.npz'


def table(folder, text):
    (folder / 'x.csv').write_text(text)
    return folder / 'x.csv'


def refused(file):
    with pytest.raises(UserError) as error:
        files.read(file)
    assert str(error.value).startswith(f'{file}: ')
    assert '\n' not in str(error.value)
    return str(error.value)


def test_an_archive_is_read(tmp_path):
    (found,) = files.read(archive(tmp_path, target=[0, 1], classes=['attack', 'live'], note='n'))
    assert (found.method, found.dataset, found.seed, found.note) == ('net', 'faces', 3, 'n')
    assert found.classes == ('attack', 'live')
    assert found.ids.tolist() == ['a', 'b']
    assert found.subsets['rgb']['pred'].tolist() == found.target.tolist() == [0, 1]


ARCHIVES = [
    ({'seed': None}, "expected the key 'seed', found none"),
    ({'seed': 1.5}, 'seed: expected a whole number, found 1.5'),
    ({'seed': -1}, 'seed: expected a whole number from 0'),
    ({'id': ['a', 'a']}, "id: expected every sample once, found 'a' twice"),
    ({'id': [[1]]}, 'id: expected names of samples (N,)'),
    ({'pred/rgb': [0]}, 'pred/rgb: expected 2 samples as in id, found int64 (1,)'),
    ({'target': [0]}, 'target: expected 2 samples as in id'),
    ({'pred/rgb': None}, 'subsets: expected predictions of at least one subset, found none'),
    ({'prop/rgb': [0, 1]}, "unknown key 'prop/rgb'"),
    ({'metod': 'x'}, "unknown key 'metod'; did you mean 'method'?"),
    ({'method': 7}, 'method: expected a text, found 7'),
    ({'method': 'a\nb'}, 'method: expected a name of 1 to 80 printable characters'),
    ({'dataset': 'a\nb'}, "dataset: expected the name of a data set, found 'a\\nb'"),
    ({'fingerprint': 3}, 'fingerprint: expected a text, found 3'),
    ({'method': ''}, 'method: expected a name of 1 to 80 printable characters'),
]


@pytest.mark.parametrize(('changes', 'told'), ARCHIVES)
def test_an_archive_that_lacks_or_contradicts_is_refused(changes, told, tmp_path):
    assert told in refused(archive(tmp_path, **changes))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / 'x.npz').write_text('no archive')
    assert 'cannot be read as predictions' in refused(tmp_path / 'x.npz')
    assert 'found no such file' in refused(tmp_path / 'y.npz')
    (tmp_path / 'x.txt').write_text('')
    assert 'expected a name that ends in .npz or .csv' in refused(tmp_path / 'x.txt')
    np.savez(tmp_path / 'z.npz', id=np.array([{}], dtype=object), allow_pickle=True)
    assert 'cannot be read as predictions' in refused(tmp_path / 'z.npz')


TABLE = """method,dataset,seed,id,modalities,prediction,p(attack),p(live)
net,faces,0,a,rgb,live,0.25,0.75
net,faces,0,b,rgb,attack,1,0
net,faces,0,b,rgb+ir,attack,0.5,0.5
net,faces,1,a,rgb,live,0,1
"""


def test_a_table_holds_several_trainings(tmp_path):
    first, second = files.read(table(tmp_path, TABLE))
    assert (first.seed, second.seed) == (0, 1)
    assert first.ids.tolist() == ['a', 'b']
    assert first.classes == ('attack', 'live')
    assert first.subsets['rgb']['pred'].tolist() == ['live', 'attack']
    np.testing.assert_array_equal(first.subsets['rgb+ir']['prob'], [[np.nan] * 2, [0.5, 0.5]])
    assert first.subsets['rgb+ir']['pred'].tolist() == ['', 'attack']
    assert second.subsets.keys() == {'rgb'}


def changed(old, new):
    assert old in TABLE
    return TABLE.replace(old, new)


TABLES = [
    ('', "expected the column 'method', found none"),
    (changed('seed,', 'sead,'), "expected the column 'seed', found none"),
    (changed('p(live)', 'p(live),hue'), "unknown column 'hue'"),
    (changed('prediction,', 'p(live),'), "column 'p(live)': expected it once, found it twice"),
    (changed('p(attack)', 'logit(attack)'), 'expected probabilities p(...) or logit(...), found'),
    (changed('0.25', 'o.25'), "p(attack) of 'a' on rgb: expected a number, found 'o.25'"),
    (changed('net,faces,1', 'net,faces,0'), "id 'a' on rgb: expected one row, found two"),
    (changed('net,faces,1', 'net,faces,one'), "seed: expected a whole number, found 'one'"),
    (changed(',1,0\n', ',1\n'), 'row 3: expected 8 fields, found 7'),
    (TABLE.splitlines()[0], 'rows: expected a row for each sample and subset, found none'),
    ('method,dataset,seed,id,modalities\n', 'expected prediction, p(<class>), logit(<class>)'),
    (changed('attack,1', '"attack,1'), 'cannot be read as a table'),
]


@pytest.mark.parametrize(('text', 'told'), TABLES)
def test_a_table_that_lacks_or_contradicts_is_refused(text, told, tmp_path):
    assert told in refused(table(tmp_path, text))


def test_two_labels_of_one_sample_are_refused(tmp_path):
    rows = TABLE.replace('prediction,', 'target,').replace('rgb+ir,attack', 'rgb+ir,live')
    assert "target of 'b': expected one label, found two" in refused(table(tmp_path, rows))


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / 'x.csv').write_bytes(b'\xff\xfe\x00')
    assert 'cannot be read as a table' in refused(tmp_path / 'x.csv')


def test_a_run_that_names_no_samples_is_not_exported(tmp_path):
    outcomes = make_outcomes({'rgb': 3})
    with pytest.raises(UserError, match='its outcomes do not name the samples.*--force'):
        files.write(tmp_path / 'x.npz', make_record('one', 0, outcomes), outcomes)
