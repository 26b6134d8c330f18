"""Caption backends: their contract, the choice by name, and one module or folder per backend."""
