"""What a reader sees: notebooks and their pages, figures, tables, and the made parts of docs/.

- `report`, `notebooks`, `kernel`, `roots`: execute notebooks, write the pages of a profile.
- `pages`, `index`, `comparison`, `templates`: HTML.
- `plots`, `tables`: from stored results to figures and tables; `drawing` makes all of a profile's.
  `captions` and `captions.yaml`: the words under figures; `sentences`: what tables say.
- `subject`, `observations`, `population`, `dependence`, `one_caption`, kept by `store`: what
  notebooks show of one image or of many; `setting`, `grounds`, `quiet`: what they say around it.
- `docs` with `card`, `catalogue_page`, `families_page`, `serving_page`, `speed_page`: Markdown.
"""
