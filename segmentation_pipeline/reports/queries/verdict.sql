-- One row per population, with the verdict of the back-test in a sentence.
select population, sentence
from backtest_verdict
order by population
