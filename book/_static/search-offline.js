// The search page fetches each found page to quote from it. A page opened from a folder (file://) may
// not fetch; then the results come without quotes instead of with errors.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
