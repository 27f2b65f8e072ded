import random
import threading

from django.db import DatabaseError, connection

from billing.usage.ingest import Ingested
from tests.billing import ledger
from tests.billing.ledger import book, put, stream


def test_writers_with_overlapping_batches_store_each_record_once(shared_ledger):
    records = stream(150, seed=3)
    results, errors = [], []

    def write(seed: int) -> None:
        dice = random.Random(seed)
        mine = dice.sample(records, len(records))
        try:
            results.extend(put(*mine[start : start + 40]) for start in range(0, len(mine), 40))
        except DatabaseError as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    total = sum(results, Ingested())
    assert (total.inserted, total.duplicates, total.conflicts) == (len(records), 3 * len(records), ())
    found = book()
    ledger.empty()
    put(*records)
    assert book() == found
