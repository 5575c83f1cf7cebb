"""The server: fal's queue protocol on the user's machine, from the HTTP request to the process that trains.

One server process answers the clients and schedules; one worker process per device trains. Everything that has to
survive a crash is in one SQLite database (`database`) and in the folders next to it (`files`, `jobs`).
"""
