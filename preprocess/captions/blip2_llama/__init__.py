"""The `blip2+llama` caption backend: BLIP-2 describes cube faces, a chat model joins the texts into one caption."""
