"""Report and tables -> text and pictures. No torch, no clock, no environment in here."""
