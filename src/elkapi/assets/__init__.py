"""Files that tasks made: kept in a folder or a bucket, measured, and named by signed addresses that expire.

Who may have a file is decided where it is served (`relay.asset_pages`); fetching it is `tasks.results`'.
"""
