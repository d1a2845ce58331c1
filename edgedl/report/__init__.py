"""Results for people: tables and sentences, plots and pages."""
