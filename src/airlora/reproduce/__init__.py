"""The paper's tables and figures, reproduced with statistics: one file per table or figure."""
