"""The frozen protocol: episodes, their starts, intervals, videos."""
