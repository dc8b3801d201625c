"""`aipo demo`: a comparison of methods with one seed, on a task that ships."""
