"""The server: fal's queue protocol on one's own machine, from the HTTP request to the process that trains.

One server process answers the clients and alone decides; one worker process per device trains. All that must
survive a crash is in one SQLite database (`store`, `tables`) and in the folders of files and runs beside it.
"""
