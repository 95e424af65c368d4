package main

var reportsPolicies = []reportCase{}
