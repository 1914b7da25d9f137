"""The ground floor: patients, volumes, readers, writers, geometry, discovery, coded errors."""
