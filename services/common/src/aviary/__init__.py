"""What Pelican, Emu and the frontend share: settings, message format, rows to texts, embedder, index client."""
