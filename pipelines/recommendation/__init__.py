"""The finite jobs of the recommendation system: data set, training, gates, batch lists, backtest."""
