"""π0: PaliGemma with an action expert; the network of π0.5 as well."""
