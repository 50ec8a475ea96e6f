"""The fraud system's finite jobs: dataset, train, evaluate, promote, batch scoring, backtest, demo."""
