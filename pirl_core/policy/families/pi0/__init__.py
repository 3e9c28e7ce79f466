"""π0 and π0.5: PaliGemma with an action expert."""
