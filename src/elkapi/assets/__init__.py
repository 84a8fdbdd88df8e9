"""Files made by tasks: stored in a folder or a bucket, measured, and served at signed URLs that expire.

`relay.asset_pages` serves them and decides who may have one; `tasks.results` downloads them.
"""
