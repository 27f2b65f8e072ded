"""Bounds on what is sent beyond one attempt per call."""

from gateway.state.retries import HedgeBudget, RetryBudget


def test_three_retries_are_always_allowed_and_a_fourth_is_not():
    budget = RetryBudget()
    for _ in range(3):
        assert budget.allows("acme")
        budget.begin("acme", is_retry=True)
    for _ in range(2):
        budget.begin("acme", is_retry=True)
    assert not budget.allows("acme")


def test_more_is_allowed_by_a_fifth_of_what_is_under_way_there():
    budget = RetryBudget()
    for _ in range(20):
        budget.begin("acme", is_retry=False)
    retries = 0
    while budget.allows("acme"):
        budget.begin("acme", is_retry=True)
        retries += 1
    assert retries == 9  # of 29 under way: the first count above 3 + 0.2 * (20 + n)


def test_a_retry_that_ended_makes_room():
    budget = RetryBudget()
    for _ in range(4):
        budget.begin("acme", is_retry=True)
    assert not budget.allows("acme")
    budget.end("acme", is_retry=True)
    assert budget.allows("acme")


def test_providers_have_budgets_of_their_own():
    budget = RetryBudget()
    for _ in range(4):
        budget.begin("acme", is_retry=True)
    assert budget.allows("globex")


def test_one_hedge_is_at_hand_and_the_next_after_twenty_calls():
    budget = HedgeBudget()
    assert [budget.spend(), budget.spend()] == [True, False]
    for _ in range(19):
        budget.earn()
    assert not budget.spend()
    budget.earn()
    budget.earn()  # nineteen and one twentieths are not exactly one
    assert budget.spend()


def test_hedges_are_at_most_a_twentieth_of_the_calls_however_long_none_was_needed():
    budget = HedgeBudget()
    for _ in range(100_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10
